"""The policy that predicts: the most accurate setting that meets the target, by what is observed now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .climb import Climb
from .hold import Hold
from .observed import Observed
from .policy import Decision
from .setting import Setting
from .target import Target

_FALL_TO = 0.9
"""A setting that replaces one that misses the target takes at most this share of the budget, where one does."""
_CLIMB_TO = 0.8
"""A better setting is taken where it takes at most this share: between this and 1 nothing changes."""
_HOLD_NS = 700_000_000
"""For so long it must have looked possible."""
_NEAR_BEST = 1.05
"""Where nothing meets the target, settings up to this much slower than the fastest count as equal to it."""
_IDLE_LINK = 0.25
"""Where messages take less of the budget than this, the link is hardly used, and what it could carry is not really known:
after `_IDLE_NS` the next larger setting is tried if the link need only be `_UNKNOWN` times what it seems."""
_IDLE_NS = 3_000_000_000
_UNKNOWN = 4.0


class ModelPolicy:
    """Falls at once, climbs after a while, and tries again ever more rarely what has failed (`climb.py`)."""

    name = "model"

    def __init__(self, settings: Sequence[Setting], target: Target) -> None:
        """Every setting has an accuracy."""
        self._accuracy = tuple(setting.accuracy or 0.0 for setting in settings)
        self._names = tuple(setting.name for setting in settings)
        self._target = target
        self._climb = Climb()
        self._room = Hold(_HOLD_NS)
        self._idle = Hold(_IDLE_NS)

    def choose(self, seen: Observed, current: int) -> Decision:
        """See `Policy.choose`."""
        if seen.rate_bytes_per_s is None:
            return Decision(current, "nothing is known of the link yet")
        pressures = [self._target.pressure(seen, index) for index in range(len(self._names))]
        least = min(pressures)
        limit = max(1.0, _NEAR_BEST * least)
        is_reachable = least <= 1
        if pressures[current] > limit:
            return self._fall(seen, current, pressures, limit, is_reachable)
        candidates = [
            index
            for index, pressure in enumerate(pressures)
            if self._accuracy[index] > self._accuracy[current]
            and (pressure <= _CLIMB_TO or (not is_reachable and pressure <= pressures[current] * _NEAR_BEST))
            and self._climb.may_try(seen.num_bytes[index], seen.time_ns, seen.rate_bytes_per_s)
        ]
        if self._room.look(bool(candidates), seen.time_ns):
            best = self._best(candidates, seen)
            return self._climb_to(best, seen, is_reachable, f"there is room: {self._told(seen, best)}")
        untried = self._untried(seen, current) if not candidates else None
        if self._idle.look(untried is not None, seen.time_ns) and untried is not None:
            return self._climb_to(untried, seen, is_reachable, "the link is hardly used: trying what it carries")
        return Decision(current, "", is_reachable)

    def _fall(
        self, seen: Observed, current: int, pressures: Sequence[float], limit: float, is_reachable: bool
    ) -> Decision:
        self._climb.fell(seen.time_ns, seen.rate_bytes_per_s)
        self._room.reset()
        self._idle.reset()
        allowed = [
            index
            for index, pressure in enumerate(pressures)
            if pressure <= limit
            and (
                self._accuracy[index] <= self._accuracy[current]
                or self._climb.may_try(seen.num_bytes[index], seen.time_ns, seen.rate_bytes_per_s)
            )
        ]
        safe = [index for index in allowed if pressures[index] <= _FALL_TO * limit]
        fastest = min(range(len(pressures)), key=pressures.__getitem__)
        chosen = self._best(safe or allowed or [fastest], seen)
        why = f"{self._told(seen, current)}, {self._told(seen, chosen)}"
        if not is_reachable:
            why = f"nothing meets {self._target}: {why}"
        return Decision(chosen, why, is_reachable)

    def _climb_to(self, index: int, seen: Observed, is_reachable: bool, why: str) -> Decision:
        self._climb.climbed(seen.num_bytes[index], seen.time_ns)
        self._room.reset()
        self._idle.reset()
        return Decision(index, why, is_reachable)

    def _untried(self, seen: Observed, current: int) -> int | None:
        """The next larger and more accurate setting, where only the link speaks against it and hardly anything is known of it."""
        if seen.wire_s(current) > _IDLE_LINK * self._target.budget_s(seen):
            return None
        assert seen.rate_bytes_per_s is not None
        faster = replace(seen, rate_bytes_per_s=_UNKNOWN * seen.rate_bytes_per_s)
        larger = [
            index
            for index, accuracy in enumerate(self._accuracy)
            if accuracy > self._accuracy[current]
            and seen.num_bytes[index] > seen.num_bytes[current]
            and self._target.pressure(faster, index) <= _CLIMB_TO
            and self._climb.may_try(seen.num_bytes[index], seen.time_ns, seen.rate_bytes_per_s)
        ]
        return min(larger, key=seen.num_bytes.__getitem__, default=None)

    def _best(self, indices: Sequence[int], seen: Observed) -> int:
        """The most accurate; of equals the smallest."""
        return max(indices, key=lambda index: (self._accuracy[index], -seen.num_bytes[index]))

    def _told(self, seen: Observed, index: int) -> str:
        return f"{self._names[index]} makes {self._target.outcome(seen, index)}"
