"""When a policy may try a better setting: not at once, and after a failed try not again for longer and longer."""

from __future__ import annotations

from dataclasses import dataclass

_TRIAL_NS = 3_000_000_000
"""A better setting that is left again within this time has failed."""
_FIRST_PAUSE_NS = 2_000_000_000
_LONGEST_PAUSE_NS = 32_000_000_000
_SMALLER = 0.9
"""Messages of less than this share of those that failed may be tried."""
_OTHER_LINK = 2.0
"""A link that carries so much more than when the try failed is another one: the pause ends."""


@dataclass(slots=True)
class Climb:
    """Keeps two settings from taking turns on a link that lies between them."""

    _climbed_ns: int | None = None
    _climbed_bytes: float = 0.0
    _pause_ns: int = _FIRST_PAUSE_NS
    _until_ns: int = 0
    _least_bytes: float = 0.0
    _failed_rate: float | None = None

    def may_try(self, num_bytes: float, time_ns: int, rate: float | None) -> bool:
        """Whether messages of `num_bytes` are not among those that a failed try forbids."""
        if time_ns >= self._until_ns or num_bytes < _SMALLER * self._least_bytes:
            return True
        return rate is not None and self._failed_rate is not None and rate > _OTHER_LINK * self._failed_rate

    def climbed(self, num_bytes: float, time_ns: int) -> None:
        """A better setting was taken, with messages of `num_bytes`."""
        self._climbed_ns, self._climbed_bytes = time_ns, num_bytes

    def fell(self, time_ns: int, rate: float | None) -> None:
        """A worse setting had to be taken."""
        if self._climbed_ns is None:
            return
        if time_ns - self._climbed_ns <= _TRIAL_NS:
            self._until_ns = time_ns + self._pause_ns
            self._least_bytes, self._failed_rate = self._climbed_bytes, rate
            self._pause_ns = min(2 * self._pause_ns, _LONGEST_PAUSE_NS)
        else:
            self._pause_ns = _FIRST_PAUSE_NS
        self._climbed_ns = None
