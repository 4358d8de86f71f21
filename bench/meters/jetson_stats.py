"""A Jetson's power by jetson-stats, where its sensors are not in sysfs or not readable by this user.

Optional and last: it needs its root service (https://github.com/rbonghi/jetson_stats), it is AGPL, and its `avg` is half of
this reading and half of the last, so only `power` is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .meter import MeterError, Unit

INTERVAL_S = 0.25
"""How often the service is asked to measure, s."""


class JetsonStats:
    """Power of a Jetson's rails by the service of jetson-stats, version 4 or newer."""

    name = "jetson-stats"
    unit: Unit = "W"
    scope = "module"
    gpu_rail: str | None = None
    min_window_s = 4 * INTERVAL_S
    total: tuple[str, ...]

    def __init__(self) -> None:
        """Raises MeterError: not installed, or its service does not run."""
        try:
            from jtop import JtopException, jtop
        except ImportError as error:
            raise MeterError("jetson-stats is not installed; pip install 'splitrail[jetson]'") from error
        self._exception: type[Exception] = JtopException
        self._jtop: Any = jtop(interval=INTERVAL_S)
        try:
            self._jtop.start()
        except Exception as error:
            raise MeterError(f"jetson-stats does not answer ({error}); start its service") from error
        try:
            self.total = (self._total_name(),)
            self.read()
        except MeterError:
            self.close()
            raise

    def read(self) -> Mapping[str, float]:
        """Rail -> watts, the total among them."""
        power = self._power()
        watts = {name: rail["power"] / 1e3 for name, rail in power["rail"].items()}
        watts[self.total[0]] = power["tot"]["power"] / 1e3
        return watts

    def close(self) -> None:
        """Leave the service."""
        self._jtop.close()

    def _total_name(self) -> str:
        return str(self._power()["tot"].get("name") or "sum of the rails")

    def _power(self) -> Any:
        try:
            if not self._jtop.ok():
                raise MeterError("jetson-stats has lost its service; start it again")
            return self._jtop.power
        except self._exception as error:
            raise MeterError(f"jetson-stats failed ({error}); see its service's log") from error
