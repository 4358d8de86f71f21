"""Says, once a run each, that the target is missed and that the source is too slow for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..pipeline.observer import Observer
from .hold import Hold
from .observed import Observed
from .policy import Decision
from .target import Target

TARGET_MISSED, SOURCE_SLOW = "target_missed", "source_slow"
"""Events of the journal, with the frame `f` and the sentence `why`."""
_HOLD_NS = 2_000_000_000
"""For so long it must have been so."""
_SLOW_SHARE = 0.95
"""A source with less than this share of the target's rate is too slow: a camera is never exact."""


class TargetWatch:
    """Judges by what is observed of the chosen setting and not by the policy: one that never changes its mind may miss, too."""

    def __init__(
        self, target: Target, names: Sequence[str], observer: Observer, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        """`names` are the settings'; `tell` hears every sentence."""
        self._target = target
        self._names = tuple(names)
        self._observer = observer
        self._tell = tell
        self._missed = Hold(_HOLD_NS)
        self._slow = Hold(_HOLD_NS)
        self._told: set[str] = set()

    def look(self, frame: int, seen: Observed, decision: Decision) -> None:
        """At every decision."""
        if self._missed.look(self._target.pressure(seen, decision.setting) > 1, seen.time_ns):
            name, rate = self._names[decision.setting], _rate(seen.rate_bytes_per_s)
            if decision.is_reachable:
                outcome = self._target.outcome(seen, decision.setting)
                self._say(TARGET_MISSED, frame, f"{name} does not meet {self._target}: it makes {outcome} {rate}")
            else:
                self._say(
                    TARGET_MISSED, frame, f"nothing meets {self._target}: {name} is the best there is now, {rate}"
                )
        # This is no miss: a setting that keeps up with the source does all that can be done.
        fps, interval_s = self._target.fps, seen.interval_s
        is_slow = fps is not None and interval_s is not None and interval_s * fps * _SLOW_SHARE > 1
        if self._slow.look(is_slow, seen.time_ns) and interval_s is not None:
            self._say(
                SOURCE_SLOW, frame, f"the source gives {1 / interval_s:.1f} FPS, so that nothing reaches {self._target}"
            )

    def _say(self, event: str, frame: int, text: str) -> None:
        if event not in self._told:
            self._told.add(event)
            self._observer.event(event, f=frame, why=text)
            self._tell(text)


def _rate(rate: float | None) -> str:
    return (
        "before the link has carried anything" if rate is None else f"where the link carries {8e-6 * rate:.3g} Mbit/s"
    )
