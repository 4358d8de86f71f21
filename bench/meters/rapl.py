"""RAPL: the energy counters of Intel and AMD processors, as the kernel's powercap shows them.

class/powercap/intel-rapl:0/{name, energy_uj, max_energy_range_uj}, its parts as intel-rapl:0:0 and so on. Counters wrap at
max_energy_range_uj. Since 2020 only root may read them (CVE-2020-8694), and few virtual machines have them.
https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .ina3221 import SYSFS
from .meter import MeterError, Unit, read_int, read_text


@dataclass(slots=True)
class _Zone:
    name: str
    counter: Path
    range_uj: int
    last_uj: int
    grown_uj: int = 0

    def joules(self) -> float:
        """Grown since the zone was opened. Must be read more often than the counter wraps: minutes at full load."""
        now = read_int(self.counter)
        self.grown_uj += now - self.last_uj if now >= self.last_uj else now + self.range_uj - self.last_uj
        self.last_uj = now
        return self.grown_uj / 1e6


class Rapl:
    """Energy of the processor packages and their memory since the meter was opened."""

    name = "rapl"
    unit: Unit = "J"
    scope = "cpu"
    gpu_rail: str | None = None
    min_window_s = 0.1

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """Raises MeterError where there is no RAPL, or this user may not read it."""
        self._zones = _find(sysfs / "class" / "powercap")
        # `core` and `uncore` are parts of their package, `dram` is beside it, `psys` is the platform around all of them.
        names = [zone.name for zone in self._zones]
        packages = [name for name in names if name.startswith("package-") and "/" not in name]
        self.total = (*packages, *(name for name in names if name.endswith("/dram")))
        if not self.total:
            raise MeterError("no RAPL counter in sysfs; virtual machines and ARM processors have none")

    def read(self) -> Mapping[str, float]:
        """Zone -> joules since the meter was opened."""
        return {zone.name: zone.joules() for zone in self._zones}

    def close(self) -> None:
        """Nothing is held."""


def _find(powercap: Path) -> list[_Zone]:
    zones = []
    # Not intel-rapl-mmio: the same package once more, by another register.
    for folder in sorted(powercap.glob("intel-rapl:*")):
        name = read_text(folder / "name")
        if name is None or not (folder / "energy_uj").exists():
            continue
        parts = folder.name.split(":")
        if len(parts) == 3:
            package = read_text(powercap / ":".join(parts[:2]) / "name")
            name = f"{package}/{name}"
        zones.append(
            _Zone(name, folder / "energy_uj", read_int(folder / "max_energy_range_uj"), read_int(folder / "energy_uj"))
        )
    return zones
