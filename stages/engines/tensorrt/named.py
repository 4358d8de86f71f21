"""TensorRT 8.5 to 10: tensors have names, precision has flags."""

from __future__ import annotations

from .flags import FlagsApi
from .tensors import TensorsApi


class NamedTensorsApi(TensorsApi, FlagsApi):
    """Both halves as they are."""
