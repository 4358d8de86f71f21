"""A chain for each setting of a run, side by side: which one a frame goes through, its packet says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .clock import now_ns
from .observer import Observer
from .packet import Kind, Packet, TensorSpec
from .stage import Chain, Stage


class Switch:
    """In a lane's place for a `Chain`: frame n may go through other stages than frame n-1, and nothing pauses between them.

    Chains may share stages; each is closed once.
    """

    def __init__(
        self,
        chains: Sequence[Sequence[Stage]],
        observer: Observer,
        served: Callable[[int, int], None] | None = None,
    ) -> None:
        """`chains` is by setting. `served(setting, ns)` hears how long a frame took that was done."""
        self._chains = tuple(Chain(stages, observer) for stages in chains)
        self._served = served
        self._active = self._chains[0]

    @property
    def current(self) -> str:
        """Name of the stage that is at work now; empty between frames."""
        return self._active.current

    def process(self, packet: Packet) -> None:
        """Run the packet through the chain of its setting."""
        chain = self._active = self._chains[packet.setting]
        if self._served is None:
            chain.process(packet)
            return
        begin = now_ns()
        chain.process(packet)
        if packet.kind is Kind.FRAME:
            self._served(packet.setting, now_ns() - begin)

    def specs_of(self, setting: int) -> tuple[TensorSpec, ...] | None:
        """What the last stage of that setting's chain can write straight into a send buffer, or None."""
        return self._chains[setting].specs_of(setting)

    def close(self) -> None:
        """Close every stage once, the last ones first."""
        distinct = {id(stage): stage for chain in self._chains for stage in chain.stages}
        for stage in reversed(distinct.values()):
            stage.close()
