"""What an adaptive run is to keep up: a frame rate, or a delay."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..pipeline.errors import ConfigError
from .observed import Observed


@dataclass(frozen=True, slots=True)
class Target:
    """A rate, a delay, or both."""

    fps: float | None = None
    delay_ms: float | None = None

    @staticmethod
    def parse(text: str) -> Target:
        """From "target-fps=15", "target-delay-ms=120", or both with a comma between them. Raises ConfigError."""
        values: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"target-(fps|delay-ms)=(\d+(?:\.\d+)?)", part.strip())
            if match is None or float(match[2]) <= 0 or match[1] in values:
                raise ConfigError(
                    f"--adapt {text!r} is no target; give target-fps=15 or target-delay-ms=120, or both with a comma"
                )
            values[match[1]] = float(match[2])
        return Target(values.get("fps"), values.get("delay-ms"))

    def __str__(self) -> str:
        fps = None if self.fps is None else f"target-fps={self.fps:g}"
        delay = None if self.delay_ms is None else f"target-delay-ms={self.delay_ms:g}"
        return ",".join(part for part in (fps, delay) if part)

    def budget_s(self, seen: Observed) -> float:
        """The time that a frame may take, the shorter of the period (the source's where that is slower) and the delay."""
        budgets = [] if self.fps is None else [self._period_s(seen)]
        if self.delay_ms is not None:
            budgets.append(self.delay_ms / 1e3)
        return min(budgets)

    def pressure(self, seen: Observed, setting: int) -> float:
        """What a frame would take of what it may with this setting, by the tighter target: all is met up to 1."""
        pressures = [] if self.fps is None else [seen.period_s(setting) / self._period_s(seen)]
        if self.delay_ms is not None:
            pressures.append(1e3 * seen.delay_s(setting) / self.delay_ms)
        return max(pressures)

    def outcome(self, seen: Observed, setting: int) -> str:
        """What the setting is expected to give, for people: "12.3 FPS", "87 ms"."""
        told = []
        if self.fps is not None:
            period_s = seen.period_s(setting)
            told.append(f"{min(1 / period_s, 9999):.1f} FPS" if period_s > 0 else "any rate")
        if self.delay_ms is not None:
            told.append(f"{1e3 * seen.delay_s(setting):.0f} ms")
        return " after ".join(told)

    def _period_s(self, seen: Observed) -> float:
        assert self.fps is not None
        return max(1 / self.fps, seen.interval_s or 0.0)
