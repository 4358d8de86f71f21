"""Random changes to a training image that its truth survives."""

from __future__ import annotations

import numpy as np

from ..bench.pictures import Picture
from ..stages.image import Image

_MIN_CROP = 0.6
_MIN_VISIBLE = 0.3
"""Of a box's area, for it to stay in the truth of a part of the image."""


def augment(picture: Picture, rng: np.random.Generator, *, flip: bool, crop: float, colour: float) -> Picture:
    """Crop with chance `crop`, mirror with one half if `flip`, vary colours by up to the share `colour`."""
    # Every number is drawn whatever happens, so that one choice does not shift the others.
    wants_crop, wants_flip = rng.random(2)
    corner, sides = rng.random(2), rng.uniform(_MIN_CROP, 1, 2)
    gains, shift = 1 + colour * rng.uniform(-1, 1, 3), 64 * colour * rng.uniform(-1, 1)
    contrast = 1 + colour * rng.uniform(-1, 1)
    if wants_crop < crop:
        picture = _crop(picture, corner, sides)
    if flip and wants_flip < 0.5:
        picture = _mirrored(picture)
    if colour:
        changed = (picture.image.astype(np.float32) - 128) * (gains * contrast).astype(np.float32) + (128 + shift)
        picture = picture._replace(image=np.clip(np.rint(changed), 0, 255).astype(np.uint8))
    return picture


def _mirrored(picture: Picture) -> Picture:
    width = picture.image.shape[1]
    boxes = picture.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - picture.boxes[:, 2], width - picture.boxes[:, 0]
    mirrored: Image = np.ascontiguousarray(picture.image[:, ::-1])
    return Picture(mirrored, boxes, picture.labels)


def _crop(picture: Picture, corner: np.ndarray, sides: np.ndarray) -> Picture:
    height, width = picture.image.shape[:2]
    new_height, new_width = (max(1, int(side * length)) for side, length in zip(sides, (height, width), strict=True))
    top, left = int(corner[0] * (height - new_height + 1)), int(corner[1] * (width - new_width + 1))
    boxes = picture.boxes - np.array([left, top, left, top], np.float32)
    clipped = np.clip(boxes, 0, np.array([new_width, new_height, new_width, new_height], np.float32))
    keep = _areas(clipped) >= _MIN_VISIBLE * np.maximum(_areas(boxes), 1e-6)
    part: Image = np.ascontiguousarray(picture.image[top : top + new_height, left : left + new_width])
    return Picture(part, clipped[keep], picture.labels[keep])


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
