"""From a source image to the network's `pixels`."""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

from ..pipeline.errors import ConfigError, FrameError
from ..pipeline.packet import Packet, TensorSpec
from .bundle import PreProcess
from .gallery import Gallery
from .image import Image

_Pixels: TypeAlias = npt.NDArray[np.uint8 | np.float32]
_AREA_BELOW = 2 / 3
"""Below this scale every source pixel is averaged (INTER_AREA), above it interpolation is bilinear. The reference (PIL, with
antialiasing) differs from bilinear by 0.5 to 1.5 grey levels down to here at a sixth of the time, and by three times the
error of averaging below, where bilinear passes over source pixels."""


class Preprocess:
    """Stage: `image` uint8 [H, W, 3] BGR -> `pixels` uint8 [1, h, w, 3] RGB, C-contiguous, and `packet.valid_size`.

    With `spec.size` the image is scaled to fit, top left, and the rest of `pixels` is 0; the graph masks it and sets it to 0
    after normalisation, as the references pad. Otherwise it has the size of `dynamic_size`, or of `rcnn_size` for an R-CNN.
    For an R-CNN `pixels` are float32, resized without rounding, and padded to multiples of 32. With a gallery the source
    image is kept for the sink.
    """

    def __init__(self, spec: PreProcess, *, gallery: Gallery | None = None) -> None:
        self.name = "preprocess"
        self._spec = spec
        self._gallery = gallery

    def process(self, packet: Packet) -> None:
        image = packet.tensors.get("image")
        if image is None:
            raise ConfigError(
                f"preprocess needs 'image' and gets {sorted(packet.tensors)}; check the order of the stages"
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise FrameError(
                f"the image of frame {packet.frame} is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]"
            )
        if self._gallery is not None:
            self._gallery.keep(packet)
        height, width = image.shape[:2]
        spec = self._spec
        if spec.size is not None:
            valid = letterbox_size((height, width), spec.size)
        else:
            rule = dynamic_size if spec.kind == "detr" else rcnn_size
            valid = rule((height, width), spec.short_side, spec.max_long_side)
        pixels = self._destination(packet, spec.padded(spec.size or valid))
        pixels[0, valid[0] :] = 0
        pixels[0, : valid[0], valid[1] :] = 0
        resize = _resize_to_rgb if spec.kind == "detr" else _resize_to_float_rgb
        resize(cast("Image", image), pixels[0, : valid[0], : valid[1]])
        packet.valid_size = valid
        packet.tensors = {"pixels": pixels}
        packet.release()

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        if self._spec.size is None:
            return None
        return (TensorSpec("pixels", self._spec.pixel_dtype, (1, *self._spec.padded(self._spec.size), 3)),)

    def close(self) -> None:
        pass

    def _destination(self, packet: Packet, size: tuple[int, int]) -> _Pixels:
        shape = (1, *size, 3)
        target = None if packet.targets is None else packet.targets.get("pixels")
        if target is not None and target.shape == shape and target.dtype == self._spec.pixel_dtype:
            return cast("_Pixels", target)
        return cast("_Pixels", np.empty(shape, self._spec.pixel_dtype))


def letterbox_size(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which an image of `source` is scaled to fit into `size`, at least 1."""
    scale = min(size[0] / source[0], size[1] / source[1])
    height, width = (max(1, round(side * scale)) for side in source)
    return min(height, size[0]), min(width, size[1])


def dynamic_size(source: tuple[int, int], short_side: int, max_long_side: int) -> tuple[int, int]:
    """Height and width of DETR's resize: the short side becomes `short_side` and the long side keeps the aspect ratio, rounded
    down. Where that exceeds `max_long_side`, the long side becomes that (or, by the reference's float arithmetic, one less)
    and the short side is rounded to the nearest; an image that has that short side already stays as it is.

    Source: `get_size_with_aspect_ratio` of transformers, the same to the pixel. That in DETR's datasets/transforms.py is the
    same up to the limit, beyond which it lets the long side grow.
    """
    short, long = min(source), max(source)
    new_short, new_long = short_side, int(short_side * long / short)
    if long / short * short_side > max_long_side:
        exact = max_long_side * short / long
        new_short = max(1, round(exact))
        new_long = min(long, max_long_side) if new_short == short else int(exact * long / short)
    return (new_short, new_long) if source[0] <= source[1] else (new_long, new_short)


def rcnn_size(source: tuple[int, int], short_side: int, max_long_side: int) -> tuple[int, int]:
    """Height and width of the resize of torchvision's R-CNNs: the short side becomes `short_side`, or less where the long one
    would exceed `max_long_side`; both rounded down.

    Source: `_resize_image_and_masks` of torchvision, the same to the pixel.
    """
    scale = min(short_side / min(source), max_long_side / max(source))
    return max(1, int(source[0] * scale)), max(1, int(source[1] * scale))


def _resize_to_float_rgb(image: Image, destination: _Pixels) -> None:
    """Resize BGR into the float32 RGB destination: bilinear without rounding or averaging, as torchvision's R-CNNs do. That they
    normalise first makes no difference, since both are linear and the weights of a pixel add up to 1."""
    height, width = destination.shape[:2]
    resized = cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.cvtColor(resized, cv2.COLOR_BGR2RGB, dst=destination)


def _resize_to_rgb(image: Image, destination: _Pixels) -> None:
    """Resize BGR into the RGB destination, a view that may have gaps between its rows; colours are swapped on the smaller."""
    height, width = destination.shape[:2]
    scale = min(height / image.shape[0], width / image.shape[1])
    if scale > 1:
        image = cast("Image", cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    method = cv2.INTER_AREA if scale < _AREA_BELOW else cv2.INTER_LINEAR
    cv2.resize(image, (width, height), dst=destination, interpolation=method)
    if scale <= 1:
        cv2.cvtColor(destination, cv2.COLOR_BGR2RGB, dst=destination)
