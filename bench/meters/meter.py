"""What a meter is: something on this host that tells power or energy, rail by rail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from ...pipeline.errors import UsageError

Unit = Literal["W", "J"]


class MeterError(UsageError):
    """This meter is not here or cannot be read; the text says why, and what would help. Never ends a run."""


class Meter(Protocol):
    """Read by one thread only. Opening one raises MeterError where it is of no use."""

    name: str
    unit: Unit
    """W: `read` tells the power now, watts. J: it tells a counter that only grows, joules."""
    scope: str
    """What the total covers: module, gpu, cpu. The scopes of the meters of one host never overlap."""
    total: tuple[str, ...]
    """The rails whose sum is the total; other rails are parts of these."""
    gpu_rail: str | None
    """The rail that feeds the GPU, where there is one; its name tells what else it feeds."""
    min_window_s: float
    """Shorter windows than this say nothing with this meter, s."""

    def read(self) -> Mapping[str, float]:
        """Rail -> watts or joules. Raises MeterError."""

    def close(self) -> None:
        """Free what it holds."""


def read_text(path: Path) -> str | None:
    """A file of the kernel's, stripped; None where it is not there or cannot be read."""
    try:
        return path.read_text(errors="replace").strip().rstrip("\0") or None
    except OSError:
        return None


def read_int(path: Path) -> int:
    """A number from a file of the kernel's. Raises MeterError."""
    try:
        return int(path.read_text())
    except PermissionError as error:
        raise MeterError(
            f"{path} is not readable by this user; run as root or change its mode with chmod a+r"
        ) from error
    except (OSError, ValueError) as error:
        raise MeterError(f"{path} cannot be read ({error}); the sensor is switched off or gone") from error
