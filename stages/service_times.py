"""How long a lane takes for a frame with each setting: measured once before the run, and corrected by every frame since."""

from __future__ import annotations

from collections.abc import Sequence

_NEW_SHARE = 0.2
"""Weight of a new frame in the moving average of the correction."""
_MOST = 20.0
"""A frame that took longer than this many times what was expected counts as that."""


class ServiceTimes:
    """What the frames of one setting show of the host (it is busy, it is throttled) holds for all settings."""

    def __init__(self, measured_s: Sequence[float]) -> None:
        """By setting, before the run; 0 where nothing is computed, or where it is not known."""
        self._measured_s = tuple(measured_s)
        self._correction = 1.0
        self._has_served = False
        self.seconds: tuple[float, ...] = self._measured_s
        """Expected now, by setting."""

    def served(self, setting: int, service_ns: int) -> None:
        """A frame with `setting` took so long."""
        measured_s = self._measured_s[setting]
        if measured_s <= 0:
            return
        ratio = min(service_ns / 1e9 / measured_s, _MOST)
        self._correction = ratio if not self._has_served else self._correction + _NEW_SHARE * (ratio - self._correction)
        self._has_served = True
        self.seconds = tuple(self._correction * each for each in self._measured_s)
