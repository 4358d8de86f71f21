"""A policy that never changes its mind."""

from __future__ import annotations

from collections.abc import Sequence

from ..pipeline.errors import ConfigError
from .observed import Observed
from .policy import Decision
from .setting import Setting


class FixedPolicy:
    """One setting for all frames."""

    name = "fixed"

    def __init__(self, settings: Sequence[Setting], which: str) -> None:
        """`which` is "WIDTH,WIRE", "local,WIDTH" or "offload,QUALITY". Raises ConfigError: it is none of `settings`."""
        found = [index for index, setting in enumerate(settings) if _spelled(setting) == _normal(which)]
        if not found:
            known = ", ".join(f"fixed:{_spelled(setting)}" for setting in settings)
            raise ConfigError(f"--adapt-policy fixed:{which} is no setting of this run; give one of {known}")
        self._decision = Decision(found[0], "fixed")

    def choose(self, seen: Observed, current: int) -> Decision:
        """Always the same."""
        return self._decision


def _spelled(setting: Setting) -> str:
    if setting.way == "split":
        return f"{setting.width:g},{setting.wire}"
    return f"local,{setting.width:g}" if setting.way == "local" else f"offload,{setting.jpeg_quality}"


def _normal(which: str) -> str:
    """1.0,uint8 is 1,uint8."""
    parts = [part.strip() for part in which.split(",")]
    for index, part in enumerate(parts):
        try:
            parts[index] = f"{float(part):g}"
        except ValueError:
            continue
    return ",".join(parts)
