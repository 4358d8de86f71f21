"""Where a frame stands in a video of constant rate, and its size there."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import cv2
import numpy as np

from ..image import Image

_SLOWEST = Fraction(1, 1001)


class VideoTime:
    """Media time -> slot of a video of about `fps` frames per second. Slots only grow: media times that share one, or go
    back, get the next free one."""

    def __init__(self, fps: float) -> None:
        self.rate = max(_SLOWEST, Fraction(fps).limit_denominator(_SLOWEST.denominator))
        """Frames per second, with a denominator that containers accept (30000/1001 is exact)."""
        self._last = -1
        self._first_ns: int | None = None

    def slot(self, pts_ns: int | None) -> int:
        """The slot of the frame with media time `pts_ns`; the first frame's is 0, and a frame of unknown time gets the next."""
        if pts_ns is None:
            self._last += 1
            return self._last
        if self._first_ns is None:
            self._first_ns = pts_ns
        wanted = round(Fraction(pts_ns - self._first_ns, 10**9) * self.rate)
        self._last = max(self._last + 1, wanted)
        return self._last


def even(size: tuple[int, int]) -> tuple[int, int]:
    """The next size whose sides are even: video codecs in 4:2:0 have no other."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def fit(picture: Image, size: tuple[int, int]) -> Image:
    """The picture at `size`, height and width: as it is, with its last row or column repeated, or scaled to fit on black."""
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    if 0 <= size[0] - height <= 1 and 0 <= size[1] - width <= 1:
        padded = cv2.copyMakeBorder(picture, 0, size[0] - height, 0, size[1] - width, cv2.BORDER_REPLICATE)
        return cast("Image", padded)
    scale = min(size[0] / height, size[1] / width)
    new = (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale))))
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[: new[0], : new[1]] = cv2.resize(picture, new[::-1], interpolation=cv2.INTER_AREA)
    return canvas
