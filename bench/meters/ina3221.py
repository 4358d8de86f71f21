"""The INA3221 current monitors of a Jetson module, as the kernel shows them.

JetPack 4 (iio):     bus/i2c/drivers/ina3221x/0-0041/iio:device1/{rail_name_0, in_power0_input}            mW
JetPack 5+ (hwmon):  bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/{in1_label, in1_input, curr1_input}       mV, mA

Rail names: the power chapters of the Jetson Linux Developer Guide (https://docs.nvidia.com/jetson/).
Layout of hwmon: https://docs.kernel.org/hwmon/ina3221.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .meter import MeterError, Unit, read_int, read_text

SYSFS = Path("/sys")
_TOTALS = ("VDD_IN", "POM_5V_IN")
"""The input of the whole module, where the board has a monitor there. VDD_MUX of a carrier board is beside it, not in it."""
_CARRIER = (
    "VDD_MUX",
    "VDD_5V_IO_SYS",
    "VDD_5V0_IO_SYS",
    "VDD_3V3_SYS",
    "VDD_3V3_IO",
    "VDD_3V3_IO_SLP",
    "VDD_1V8_IO",
    "VDD_M2_IN",
    "VDD_3V3_SYS_M2",
)
"""Rails of the developer kits' carrier boards, no part of the module."""
_GPU_RAILS = ("VDD_SYS_GPU", "VDD_GPU", "POM_5V_GPU", "GPU", "VDD_CPU_GPU", "VDD_CPU_GPU_CV", "VDD_GPU_SOC")
"""TX2, TX1, Nano, AGX Xavier, TX2 NX, Xavier NX and Orin NX and Nano, AGX Orin; the latter feed more than the GPU."""


@dataclass(frozen=True, slots=True)
class _Rail:
    name: str
    power: Path | None
    """mW."""
    voltage: Path | None = None
    """mV."""
    current: Path | None = None
    """mA."""

    def watts(self) -> float:
        if self.power is not None:
            return read_int(self.power) / 1e3
        assert self.voltage is not None
        assert self.current is not None
        return read_int(self.voltage) * read_int(self.current) / 1e6


class Ina3221:
    """Power of a Jetson's rails. The total is the module's input, else the sum of the module's rails (AGX boards)."""

    name = "ina3221"
    unit: Unit = "W"
    min_window_s = 0.5

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """Raises MeterError where there are no monitors, or this user may not read them."""
        self._rails = _find(sysfs)
        if not self._rails:
            raise MeterError("no INA3221 monitor in sysfs; only Jetson modules have one")
        names = [rail.name for rail in self._rails]
        whole = next((name for name in _TOTALS if name in names), None)
        self.total = (whole,) if whole is not None else tuple(name for name in names if name not in _CARRIER)
        self.scope = "module" if whole is not None else "module, as the sum of its rails"
        self.gpu_rail = next((name for name in _GPU_RAILS if name in names), None)
        self.read()

    def read(self) -> Mapping[str, float]:
        """Rail -> watts."""
        return {rail.name: rail.watts() for rail in self._rails}

    def close(self) -> None:
        """Nothing is held."""


def _find(sysfs: Path) -> list[_Rail]:
    drivers = sysfs / "bus" / "i2c" / "drivers"
    rails: list[_Rail] = []
    for folder in sorted(drivers.glob("ina3221*/*/iio:device*")):
        for label in sorted(folder.glob("rail_name_*")):
            number = label.name.removeprefix("rail_name_")
            rails.append(_Rail(read_text(label) or "", folder / f"in_power{number}_input"))
    for folder in sorted(drivers.glob("ina3221*/*/hwmon/hwmon*")):
        for label in sorted(folder.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            voltage, current = folder / f"in{number}_input", folder / f"curr{number}_input"
            # Channel 7 is the sum of the shunt voltages: it has no current and is no rail.
            if current.exists():
                rails.append(_Rail(read_text(label) or "", None, voltage, current))
    # A channel that the board does not use is called NC.
    return [rail for rail in rails if rail.name not in ("", "NC")]
