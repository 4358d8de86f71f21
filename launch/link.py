"""The emulated link that a command line asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..pipeline.errors import ConfigError
from .rate_trace import RateTrace


@dataclass(frozen=True, slots=True)
class Link:
    """`--netns`, `--link-rate`, `--link-delay` and `--link-rate-steps`. Raises ConfigError when one comes without the namespaces,
    or a rate and its steps together."""

    netns: bool = False
    rate: str | None = None
    """As `tc` spells it; None is unlimited."""
    delay: str | None = None
    """One way."""
    keep: tuple[Path, ...] = ()
    """Folders that the far host has as well, such as bundles brought there before."""
    steps: RateTrace = field(default_factory=RateTrace)

    def __post_init__(self) -> None:
        if not self.netns and self.steps.steps:
            raise ConfigError("--link-rate-steps are of the emulated link; add --netns")
        if not self.netns and (self.rate or self.delay):
            raise ConfigError("--link-rate and --link-delay are of the emulated link; add --netns")
        if self.rate and self.steps.steps:
            raise ConfigError(
                "--link-rate and --link-rate-steps are both given; the first step says the rate at the start"
            )

    @property
    def first_rate(self) -> str | None:
        """The rate at the start."""
        return self.rate or self.steps.first

    @property
    def delay_ms(self) -> float:
        """One way, ms. Raises ConfigError."""
        return parse_delay_ms(self.delay)


def parse_delay_ms(text: str | None) -> float:
    """A delay like 10ms, 500us or 1s in ms; None is 0. Raises ConfigError."""
    if text is None:
        return 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text.strip().lower())
    if match is None:
        raise ConfigError(f"link delay {text!r} is not a time; write it like 10ms or 500us")
    return float(match[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match[2]]
