"""When the rate of an emulated link changed during a run, as the run's folder tells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

LINK_STEPS = "link.json"


@dataclass(frozen=True, slots=True)
class LinkStep:
    """The link had this rate from here on."""

    rate: str
    """As `tc` spells it."""
    rate_bit_per_s: int
    at_ns: int
    """By the clock of the machine, which is that of all its ranks."""


def link_steps(folder: Path) -> list[LinkStep]:
    """The steps of a run in time order; empty where the rate did not change."""
    try:
        steps = json.loads((folder / LINK_STEPS).read_text(encoding="utf-8"))
        return [LinkStep(step["rate"], int(step["rate_bit_per_s"]), int(step["at_ns"])) for step in steps]
    except (OSError, ValueError, KeyError, TypeError):
        return []
