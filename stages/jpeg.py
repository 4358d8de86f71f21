"""Images as JPEG on the wire."""

from __future__ import annotations

from typing import Literal, cast

import cv2
import numpy as np

from ..pipeline.errors import ConfigError, FrameError
from ..pipeline.packet import Packet
from .gallery import Gallery
from .image import Image

JpegTensor = Literal["image", "pixels"]
"""`image` uint8 [H, W, 3] BGR of the source, or `pixels` uint8 or float32 [1, H, W, 3] RGB 0..255 of the network."""

_END_OF_IMAGE = (0xFF, 0xD9)


class JpegEncode:
    """Stage: `image` or `pixels` -> `jpeg` uint8 [n], 4:2:0 subsampled as OpenCV does. With a gallery the `image` is kept
    for the sink.

    Raises ConfigError for a quality outside 1..100.
    """

    def __init__(self, quality: int = 90, tensor: JpegTensor = "image", *, gallery: Gallery | None = None) -> None:
        if not 1 <= quality <= 100:
            raise ConfigError(f"the JPEG quality is {quality} and must be from 1 to 100")
        self.name = "jpeg_encode"
        self._tensor = tensor
        self._options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        self._gallery = gallery

    def process(self, packet: Packet) -> None:
        array = cast("Image | None", packet.tensors.get(self._tensor))
        if array is None:
            found = sorted(packet.tensors)
            raise ConfigError(f"jpeg_encode needs {self._tensor!r} and gets {found}; check the order of the stages")
        if self._gallery is not None:
            self._gallery.keep(packet)
        try:
            image = array
            if self._tensor == "pixels":
                rounded = array if array.dtype == np.uint8 else np.rint(array).astype(np.uint8)
                image = cv2.cvtColor(rounded[0], cv2.COLOR_RGB2BGR)
            _, jpeg = cv2.imencode(".jpg", image, self._options)
        except cv2.error as error:
            raise FrameError(f"frame {packet.frame} cannot be made a JPEG: {error.err}") from error
        packet.tensors = {"jpeg": jpeg.reshape(-1)}
        packet.release()

    def close(self) -> None:
        pass


class JpegDecode:
    """Stage: `jpeg` uint8 [n] -> `image` or `pixels`, the tensor that `JpegEncode` was given; `pixels` as `pixel_dtype`.

    Raises FrameError for bytes that are no complete JPEG, or an `image` whose size is not the packet's `source_size`.
    """

    def __init__(self, tensor: JpegTensor = "image", pixel_dtype: str = "uint8") -> None:
        self.name = "jpeg_decode"
        self._pixel_dtype = pixel_dtype
        self._tensor = tensor

    def process(self, packet: Packet) -> None:
        jpeg = cast("Image | None", packet.tensors.get("jpeg"))
        if jpeg is None:
            raise ConfigError(
                f"jpeg_decode needs 'jpeg' and gets {sorted(packet.tensors)}; check the order of the stages"
            )
        # OpenCV fills what a cut JPEG lacks with grey and says nothing.
        complete = jpeg.dtype == np.uint8 and jpeg.size > 2 and tuple(jpeg[-2:]) == _END_OF_IMAGE
        image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR) if complete else None
        if image is None:
            raise FrameError(f"the {jpeg.size} bytes of frame {packet.frame} are not a complete JPEG")
        if self._tensor == "pixels":
            cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
            packet.tensors = {"pixels": image[np.newaxis].astype(self._pixel_dtype, copy=False)}
        elif image.shape[:2] != packet.source_size:
            raise FrameError(
                f"the JPEG of frame {packet.frame} is {image.shape[:2]} and its source {packet.source_size}"
            )
        else:
            packet.tensors = {"image": image}
        packet.release()

    def close(self) -> None:
        pass
