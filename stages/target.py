"""What an adaptive run is to keep up: a frame rate, or a delay."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..pipeline.errors import ConfigError
from .observed import Observed


@dataclass(frozen=True, slots=True)
class Target:
    """One of the two is given."""

    fps: float | None = None
    delay_ms: float | None = None

    @staticmethod
    def parse(text: str) -> Target:
        """From "target-fps=15" or "target-delay-ms=120". Raises ConfigError."""
        match = re.fullmatch(r"target-(fps|delay-ms)=(\d+(?:\.\d+)?)", text.strip())
        if match is None or float(match[2]) <= 0:
            raise ConfigError(f"--adapt {text!r} is no target; give target-fps=15 or target-delay-ms=120")
        return Target(fps=float(match[2])) if match[1] == "fps" else Target(delay_ms=float(match[2]))

    def __str__(self) -> str:
        return f"target-fps={self.fps:g}" if self.fps is not None else f"target-delay-ms={self.delay_ms:g}"

    def budget_s(self, seen: Observed) -> float:
        """The time that a frame may take: of a rate the period (that of the source where it is slower), or the delay."""
        if self.fps is None:
            assert self.delay_ms is not None
            return self.delay_ms / 1e3
        return max(1 / self.fps, seen.interval_s or 0.0)

    def pressure(self, seen: Observed, setting: int) -> float:
        """What a frame would take of that budget with this setting: the target is met up to 1."""
        time_s = seen.period_s(setting) if self.fps is not None else seen.delay_s(setting)
        return time_s / self.budget_s(seen)

    def outcome(self, seen: Observed, setting: int) -> str:
        """What the setting is expected to give, for people: "12.3 FPS", "87 ms"."""
        if self.fps is None:
            return f"{1e3 * seen.delay_s(setting):.0f} ms"
        period_s = seen.period_s(setting)
        return f"{min(1 / period_s, 9999):.1f} FPS" if period_s > 0 else "any rate"
