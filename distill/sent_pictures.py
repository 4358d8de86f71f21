"""Pictures as they arrive when the image itself travels, and how many bytes that takes."""

from __future__ import annotations

import cv2
import numpy as np

from ..bench.pictures import Picture, Pictures
from ..stages.preprocess import letterbox_size


class RawPictures:
    """Pictures as they are; counts the bytes of each in the network's size, without padding."""

    def __init__(self, pictures: Pictures, size: tuple[int, int] | None) -> None:
        self.classes = pictures.classes
        self.num_bytes = 0
        """Of all pictures that were given."""
        self._pictures = pictures
        self._size = size

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        picture = self._pictures.picture(index, epoch)
        height, width = picture.image.shape[:2]
        if self._size is not None:
            height, width = letterbox_size((height, width), self._size)
        self.num_bytes += 3 * height * width
        return picture


class JpegPictures:
    """Pictures as they are after a JPEG of `quality`, 1 to 100, of the image scaled by `scale`; counts its bytes.

    The image gets its own size again, so that the truth stays what it is.
    """

    def __init__(self, pictures: Pictures, quality: int, scale: float = 1.0) -> None:
        self.classes = pictures.classes
        self.num_bytes = 0
        """Of all pictures that were given."""
        self._pictures = pictures
        self._quality, self._scale = quality, scale

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        picture = self._pictures.picture(index, epoch)
        height, width = picture.image.shape[:2]
        small = (max(1, round(width * self._scale)), max(1, round(height * self._scale)))
        sent = picture.image if self._scale == 1 else cv2.resize(picture.image, small, interpolation=cv2.INTER_AREA)
        done, encoded = cv2.imencode(".jpg", sent, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert done
        assert decoded is not None
        self.num_bytes += len(encoded)
        if self._scale != 1:
            decoded = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR)
        return picture._replace(image=decoded.astype(np.uint8, copy=False))
