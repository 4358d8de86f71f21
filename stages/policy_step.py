"""The policy that only watches the present setting: one step down when the target is missed, one up when there is room."""

from __future__ import annotations

from collections.abc import Sequence

from .climb import Climb
from .hold import Hold
from .observed import Observed
from .policy import Decision
from .setting import Setting
from .target import Target

_DOWN_ABOVE = 1.0
_UP_BELOW = 0.6
_HOLD_NS = 1_500_000_000
"""For so long there must have been room."""
_DWELL_NS = 100_000_000
"""Between two steps down: what the last one did must be seen first."""


class StepPolicy:
    """The ladder: settings by their bytes, without those that are no more accurate than a smaller one."""

    name = "step"

    def __init__(self, settings: Sequence[Setting], target: Target) -> None:
        """Every setting has an accuracy and a size."""
        self._ladder: list[int] = []
        by_size = sorted(range(len(settings)), key=lambda index: (_size(settings[index]), -_accuracy(settings[index])))
        for index in by_size:
            if not self._ladder or _accuracy(settings[index]) > _accuracy(settings[self._ladder[-1]]):
                self._ladder.append(index)
        self._names = tuple(setting.name for setting in settings)
        self._target = target
        self._climb = Climb()
        self._room = Hold(_HOLD_NS)
        self._moved_ns = 0

    def choose(self, seen: Observed, current: int) -> Decision:
        """See `Policy.choose`."""
        if seen.rate_bytes_per_s is None:
            return Decision(current, "nothing is known of the link yet")
        if current not in self._ladder:
            return Decision(self._ladder[0], "the lowest step")
        rung = self._ladder.index(current)
        pressure = self._target.pressure(seen, current)
        told = f"{self._names[current]} makes {self._target.outcome(seen, current)}"
        if pressure > _DOWN_ABOVE:
            if rung == 0:
                return Decision(current, "", is_reachable=False)
            if seen.time_ns - self._moved_ns < _DWELL_NS:
                return Decision(current)
            self._moved_ns = seen.time_ns
            self._climb.fell(seen.time_ns, seen.rate_bytes_per_s)
            self._room.reset()
            return Decision(self._ladder[rung - 1], f"a step down: {told}")
        above = self._ladder[rung + 1] if rung + 1 < len(self._ladder) else None
        has_room = (
            above is not None
            and pressure < _UP_BELOW
            and self._climb.may_try(seen.num_bytes[above], seen.time_ns, seen.rate_bytes_per_s)
        )
        if self._room.look(has_room, seen.time_ns) and above is not None:
            self._room.reset()
            self._climb.climbed(seen.num_bytes[above], seen.time_ns)
            self._moved_ns = seen.time_ns
            return Decision(above, f"a step up: {told}")
        return Decision(current)


def _accuracy(setting: Setting) -> float:
    return setting.accuracy or 0.0


def _size(setting: Setting) -> float:
    return setting.bytes_per_frame or 0.0
