"""What the sender of an edge sees of the link and of the receiver, from what it posts and the credits that come back.

A message's time on the link is that between its own end and the later of its posting and the end of the message before:

    finished = when its credit could have been back at the earliest - round trip
    on_link  = finished - max(posted, finished of the message before)

The rate is bytes over time on the link of the newest messages that together took `_EVIDENCE_NS`: many on a fast link, a single
one on a slow link, so that a link that fades is believed after one message. A message that is late says so before it arrives:
no more than its bytes in the time since it began.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from .credit import Credit

_EVIDENCE_NS = 100_000_000
_MAX_AGE_NS = 1_000_000_000
"""Older messages say nothing of the link as it is, but for the newest."""
_LATE = 1.5
_LATE_NS = 20_000_000
"""A message is late after `_LATE` times what the rate says and this."""
_MIN_ON_LINK_NS = 50_000
_POLLS_NS = 600_000
"""What two communication threads add to a round trip by sleeping between tests, ns."""
_NEGLIGIBLE = 0.05
"""Share of a message's time on the link below which a round trip between two messages does not show."""
_MAX_DRIFT = 100e-6
"""How fast the clocks of two hosts part, at most."""
_NEW_SHARE = 0.25
"""Weight of a new value in a moving average."""
UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class FlowView:
    """One look at an edge."""

    rate_bytes_per_s: float | None
    """What the link carries now; None before the first message has arrived."""
    round_trip_ns: int
    under_way_bytes: int
    """Posted, and not known to have arrived."""
    under_way_ns: int
    """Since when the link has been at work on the first of them; 0 where nothing is under way."""
    queued_frames: int
    """Arrived, and waiting for the receiving lane."""
    served_frames: int
    """So many the receiving lane is through with."""
    served_setting: int
    service_ns: int
    """How long that lane took for the last of them, which had `served_setting`."""


class Flow:
    """One per edge; the sending lane and the communication thread call it."""

    def __init__(self, round_trip_ns: int, num_settings: int) -> None:
        """`round_trip_ns` is that of a message without payload on an idle link."""
        self._lock = threading.Lock()
        self._round_trip_ns = round_trip_ns + _POLLS_NS
        self._posted: deque[tuple[int, int]] = deque()
        """Bytes and time of every message that is not known to have arrived."""
        self._under_way_bytes = 0
        self._arrived: deque[tuple[int, int, int]] = deque()
        """Bytes, time on the link, and end of the newest messages; end by this host's clock."""
        self._free_ns = 0
        """When the link was through with the last message that has arrived."""
        self._offset_ns = UNLIMITED
        """This host's clock minus the receiver's, and the least a credit takes: what turns an arrival there into the earliest
        time at which its credit could have been here."""
        self._credited_ns = 0
        self._credit = Credit(0, 0, 0, 0)
        self._num_bytes: list[float | None] = [None] * num_settings

    def posted(self, setting: int, num_bytes: int, time_ns: int, *, is_frame: bool) -> None:
        """A message goes out; of what is no frame only the bytes count."""
        with self._lock:
            self._posted.append((num_bytes, time_ns))
            self._under_way_bytes += num_bytes
            if is_frame:
                before = self._num_bytes[setting]
                self._num_bytes[setting] = num_bytes if before is None else before + _NEW_SHARE * (num_bytes - before)

    def credited(self, credit: Credit, time_ns: int) -> None:
        """A credit came back. Credits may overtake each other: an older one than the last says nothing."""
        with self._lock:
            num_new = min(credit.arrived_frames - self._credit.arrived_frames, len(self._posted))
            if num_new < 0:
                return
            self._credit = credit
            if num_new == 0:
                return
            messages = [self._posted.popleft() for _ in range(num_new)]
            num_bytes = sum(size for size, _ in messages)
            self._under_way_bytes -= num_bytes
            drifted_ns = self._offset_ns + round(_MAX_DRIFT * (time_ns - self._credited_ns))
            self._offset_ns = min(drifted_ns, time_ns - credit.arrived_ns)
            self._credited_ns = time_ns
            finished_ns = credit.arrived_ns + self._offset_ns - self._round_trip_ns
            began_ns = max(messages[0][1], self._free_ns)
            self._free_ns = max(finished_ns, self._free_ns)
            self._arrived.append((num_bytes, max(finished_ns - began_ns, _MIN_ON_LINK_NS), time_ns))
            self._forget()

    def window_bytes(self, num_bytes: int, time_ns: int) -> int:
        """So many bytes may be under way together with a message of `num_bytes`: what the link carries now in one round trip,
        and this message, in whole messages. A rate that falls makes it smaller at once."""
        with self._lock:
            rate = self._rate(time_ns)
        if rate is None:
            return UNLIMITED
        share = rate * self._round_trip_ns / 1e9 / max(num_bytes, 1)
        return (1 + math.ceil(max(0.0, share - _NEGLIGIBLE))) * num_bytes

    def num_bytes(self, setting: int) -> float | None:
        """Moving average of the messages with this setting; None before the first."""
        return self._num_bytes[setting]

    def look(self, time_ns: int) -> FlowView:
        """What is known at `time_ns`."""
        with self._lock:
            credit = self._credit
            return FlowView(
                self._rate(time_ns),
                self._round_trip_ns,
                self._under_way_bytes,
                max(0, time_ns - max(self._posted[0][1], self._free_ns)) if self._posted else 0,
                credit.queued_frames,
                credit.served_frames,
                credit.served_setting,
                credit.service_ns,
            )

    def _forget(self) -> None:
        """Messages that are not needed for the rate any more."""
        newest_ns, on_link_ns = self._arrived[-1][2], 0
        for number, (_, took_ns, end_ns) in enumerate(reversed(self._arrived)):
            if number and (on_link_ns >= _EVIDENCE_NS or newest_ns - end_ns > _MAX_AGE_NS):
                for _ in range(len(self._arrived) - number):
                    self._arrived.popleft()
                return
            on_link_ns += took_ns

    def _rate(self, time_ns: int) -> float | None:
        num_bytes = sum(size for size, _, _ in self._arrived)
        rate = num_bytes / sum(took_ns for _, took_ns, _ in self._arrived) * 1e9 if self._arrived else None
        if self._posted:
            size, posted_ns = self._posted[0]
            since_ns = time_ns - self._round_trip_ns - max(posted_ns, self._free_ns)
            expected_ns = size / rate * 1e9 if rate is not None else 0.0
            if since_ns > _LATE * expected_ns + _LATE_NS:
                rate = min(rate or math.inf, size / since_ns * 1e9)
        return rate
