"""The error of everything that loads weights."""

from __future__ import annotations

from ..pipeline.errors import UsageError


class WeightsError(UsageError):
    """Weights that cannot be found or read, or that are another detector's."""
