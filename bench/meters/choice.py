"""Which meters this host has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .ina3221 import SYSFS, Ina3221
from .jetson_stats import JetsonStats
from .meter import Meter, MeterError
from .nvml import Nvml
from .rapl import Rapl


@dataclass(frozen=True, slots=True)
class MeterChoice:
    """The meters of a host; their scopes are disjoint, so that their totals may be added."""

    meters: tuple[Meter, ...]
    missing: dict[str, str]
    """Meter -> why it is of no use here."""

    @property
    def reason(self) -> str:
        """Why nothing is measured, one sentence; empty where something is."""
        return "" if self.meters else "; ".join(f"{name}: {why}" for name, why in self.missing.items())


def choose_meters(sysfs: Path = SYSFS) -> MeterChoice:
    """On a Jetson its own monitors, else jetson-stats; on other hosts the GPUs and the processors, whichever can be read."""
    missing: dict[str, str] = {}
    jetson: list[tuple[str, Callable[[], Meter]]] = [("ina3221", lambda: Ina3221(sysfs)), ("jetson-stats", JetsonStats)]
    for name, open_meter in jetson:
        meter = _try(name, open_meter, missing)
        if meter is not None:
            return MeterChoice((meter,), missing)
    others: list[tuple[str, Callable[[], Meter]]] = [("nvml", Nvml), ("rapl", lambda: Rapl(sysfs))]
    found = [_try(name, open_meter, missing) for name, open_meter in others]
    return MeterChoice(tuple(meter for meter in found if meter is not None), missing)


def _try(name: str, open_meter: Callable[[], Meter], missing: dict[str, str]) -> Meter | None:
    try:
        return open_meter()
    except MeterError as error:
        missing[name] = str(error)
        return None
