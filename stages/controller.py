"""Chooses how each frame is done when the edge takes it: looks at the link and at both ranks, and asks the policy."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence

from ..pipeline.clock import now_ns
from ..pipeline.endpoint import Inbound
from ..pipeline.flow import Flow
from ..pipeline.message import HEADER_BYTES
from ..pipeline.observer import Observer
from ..pipeline.packet import Kind, Packet
from .observed import Observed
from .policy import Policy
from .service_times import ServiceTimes
from .setting import Setting
from .target import Target
from .target_watch import TargetWatch

_TOLD_NS = 500_000_000
"""How often the journal hears what the link is taken to carry."""
_NUM_INTERVALS = 15


class Controller:
    """Between the source and the edge's lane: an inbound that gives every packet its setting."""

    def __init__(
        self,
        inbound: Inbound,
        settings: Sequence[Setting],
        policy: Policy,
        flow: Flow,
        edge: ServiceTimes,
        far: ServiceTimes,
        observer: Observer,
        *,
        is_live: bool,
        knows_age: bool,
        target: Target | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`edge` and `far` are the service times of the sending and the receiving lane. `is_live`: the source does not wait.
        `knows_age`: its clock is this rank's. `tell` hears, once each, why the `target` is missed, and that the source is
        too slow for it."""
        self._inbound = inbound
        self._names = tuple(setting.name for setting in settings)
        self._table_bytes = tuple((setting.bytes_per_frame or 0.0) + HEADER_BYTES for setting in settings)
        self._policy = policy
        self._flow = flow
        self._edge = edge
        self._far = far
        self._observer = observer
        self._is_live = is_live
        self._knows_age = knows_age
        self._watch = None if target is None else TargetWatch(target, self._names, observer, tell)
        # Nothing is known of the link yet, so nothing large is sent at first.
        self.current = min(range(len(settings)), key=self._table_bytes.__getitem__)
        self._is_first = True
        self._last: tuple[int, int] | None = None
        self._intervals_s: deque[float] = deque(maxlen=_NUM_INTERVALS)
        self._num_served = 0
        self._told_ns = 0

    def receive(self) -> Packet | None:
        """The next packet, with its setting."""
        packet = self._inbound.receive()
        if packet is not None and packet.kind is Kind.FRAME:
            self._choose(packet, now_ns())
        return packet

    def close(self) -> None:
        """Close the inbound."""
        self._inbound.close()

    def _choose(self, packet: Packet, time_ns: int) -> None:
        self._pace(packet)
        seen = self._look(packet, time_ns)
        decision = self._policy.choose(seen, self.current)
        packet.setting = decision.setting
        if decision.setting != self.current or self._is_first:
            self._tell(packet.frame, decision.setting, decision.reason, seen)
            self.current, self._is_first = decision.setting, False
        if time_ns - self._told_ns >= _TOLD_NS:
            self._told_ns = time_ns
            self._observer.event(
                "link",
                f=packet.frame,
                rate_bit_per_s=_bits(seen.rate_bytes_per_s),
                under_way_bytes=seen.under_way_bytes,
            )
        if self._watch is not None:
            self._watch.look(packet.frame, seen, decision)

    def _pace(self, packet: Packet) -> None:
        """Keep the time between two captured frames of a live source."""
        last, self._last = self._last, (packet.frame, packet.capture_ns)
        if self._is_live and last is not None and packet.frame > last[0]:
            self._intervals_s.append((packet.capture_ns - last[1]) / 1e9 / (packet.frame - last[0]))

    def _look(self, packet: Packet, time_ns: int) -> Observed:
        view = self._flow.look(time_ns)
        if view.served_frames != self._num_served:
            self._num_served = view.served_frames
            self._far.served(view.served_setting, view.service_ns)
        sent = (self._flow.num_bytes(index) for index in range(len(self._names)))
        return Observed(
            time_ns,
            view.rate_bytes_per_s,
            view.round_trip_ns / 1e9,
            view.under_way_bytes,
            view.under_way_ns / 1e9,
            tuple(table if own is None else own for own, table in zip(sent, self._table_bytes, strict=True)),
            self._edge.seconds,
            self._far.seconds,
            view.queued_frames,
            max(0, time_ns - packet.capture_ns) / 1e9 if self._knows_age else 0.0,
            # The median: a source that starts late, or stumbles, is no slower one.
            statistics.median(self._intervals_s) if self._intervals_s else None,
        )

    def _tell(self, frame: int, setting: int, why: str, seen: Observed) -> None:
        self._observer.event(
            "setting",
            f=frame,
            s=setting,
            n=self._names[setting],
            why=why,
            rate_bit_per_s=_bits(seen.rate_bytes_per_s),
            edge_ms=round(1e3 * seen.edge_s[setting], 3),
            far_ms=round(1e3 * seen.far_s[setting], 3),
        )


def _bits(rate: float | None) -> int | None:
    return None if rate is None else round(8 * rate)
