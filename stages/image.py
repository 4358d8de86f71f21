"""The type of an image between decoding and drawing."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[np.uint8]
"""uint8 [height, width, 3], BGR 0..255, as OpenCV has it."""
