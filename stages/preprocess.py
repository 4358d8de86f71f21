"""From a source image to the network's `pixels`."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np

from ..pipeline.errors import ConfigError, FrameError
from ..pipeline.packet import Packet, TensorSpec
from .bundle import PreProcess
from .gallery import Gallery
from .image import Image

_AREA_BELOW = 2 / 3
"""Below this scale every source pixel is averaged (INTER_AREA), above it interpolation is bilinear. The reference (PIL, with
antialiasing) differs from bilinear by 0.5 to 1.5 grey levels down to here at a sixth of the time, and by three times the
error of averaging below, where bilinear passes over source pixels."""


class Preprocess:
    """Stage: `image` uint8 [H, W, 3] BGR -> `pixels` uint8 [1, h, w, 3] RGB, C-contiguous, and `packet.valid_size`.

    With `spec.size` the image is scaled to fit, top left, and the rest of `pixels` is 0; the graph masks it and sets it to 0
    after normalisation, as DETR's collate function pads. Otherwise `pixels` has the size of `dynamic_size` and no padding.
    With a gallery the source image is kept for the sink.
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
        if self._spec.size is not None:
            valid = letterbox_size((height, width), self._spec.size)
            pixels = self._destination(packet, self._spec.size)
            pixels[0, valid[0] :] = 0
            pixels[0, : valid[0], valid[1] :] = 0
        else:
            valid = dynamic_size((height, width), self._spec.short_side, self._spec.max_long_side)
            pixels = self._destination(packet, valid)
        _resize_to_rgb(cast("Image", image), pixels[0, : valid[0], : valid[1]])
        packet.valid_size = valid
        packet.tensors = {"pixels": pixels}
        packet.release()

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        if self._spec.size is None:
            return None
        return (TensorSpec("pixels", "uint8", (1, *self._spec.size, 3)),)

    def close(self) -> None:
        pass

    @staticmethod
    def _destination(packet: Packet, size: tuple[int, int]) -> Image:
        shape = (1, *size, 3)
        target = None if packet.targets is None else packet.targets.get("pixels")
        if target is not None and target.shape == shape and target.dtype == np.uint8:
            return cast("Image", target)
        return np.empty(shape, np.uint8)


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


def _resize_to_rgb(image: Image, destination: Image) -> None:
    """Resize BGR into the RGB destination, a view that may have gaps between its rows; colours are swapped on the smaller."""
    height, width = destination.shape[:2]
    scale = min(height / image.shape[0], width / image.shape[1])
    if scale > 1:
        image = cast("Image", cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    method = cv2.INTER_AREA if scale < _AREA_BELOW else cv2.INTER_LINEAR
    cv2.resize(image, (width, height), dst=destination, interpolation=method)
    if scale <= 1:
        cv2.cvtColor(destination, cv2.COLOR_BGR2RGB, dst=destination)
