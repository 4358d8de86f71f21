"""The emulated link that a command line asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Link:
    """`--netns`, `--link-rate` and `--link-delay`. Raises ConfigError when rate or delay come without the namespaces."""

    netns: bool = False
    rate: str | None = None
    """As `tc` spells it; None is unlimited."""
    delay: str | None = None
    """One way."""
    keep: tuple[Path, ...] = ()
    """Folders that the far host has as well, such as bundles brought there before."""

    def __post_init__(self) -> None:
        if not self.netns and (self.rate or self.delay):
            raise ConfigError("--link-rate and --link-delay are of the emulated link; add --netns")

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
