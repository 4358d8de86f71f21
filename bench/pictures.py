"""What a training or an evaluation reads images and truth from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..stages.image import Image
from ..stages.masks import Masks, encode_mask
from ..stages.scenery.classes import CLASSES
from ..stages.scenery.frame import MAX_OBJECTS
from ..stages.scenery.tones import Split
from ..stages.scenes import SceneWorld

_NO_BOXES = np.zeros((0, 4), np.float32)
_NO_LABELS = np.zeros(0, np.int32)


class Picture(NamedTuple):
    """An image with its truth."""

    image: Image
    """uint8 [H, W, 3] BGR."""
    boxes: npt.NDArray[np.float32]
    """[N, 4] xyxy, pixels."""
    labels: npt.NDArray[np.int32]
    """[N] index into the classes."""
    ignored_boxes: npt.NDArray[np.float32] = _NO_BOXES
    """[M, 4] xyxy: crowds, which a detector need not find and is not punished for."""
    ignored_labels: npt.NDArray[np.int32] = _NO_LABELS
    """[M]."""
    masks: Masks | None = None
    """N of them; like the keypoints only where they are asked for."""
    ignored_masks: Masks | None = None
    """M of them."""
    keypoints: npt.NDArray[np.float32] | None = None
    """[N, K, 3] x, y in pixels, and 2 visible, 1 hidden, 0 not labelled."""
    areas: npt.NDArray[np.float32] | None = None
    """[N] of the object's visible pixels."""


class Pictures(Protocol):
    """A numbered set of them; small enough to be handed to other processes."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def picture(self, index: int, epoch: int) -> Picture:
        """Number `index` of what is shown in `epoch`."""
        ...


@dataclass
class ScenePictures:
    """Generated scenes, `num_images` new ones each epoch."""

    size: tuple[int, int]
    seed: int
    split: Split
    num_images: int
    max_objects: int = MAX_OBJECTS
    empty_fraction: float = 0.1
    classes: tuple[str, ...] = CLASSES
    with_shapes: bool = False
    """Masks and keypoints too."""
    _world: SceneWorld | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return self.num_images

    def picture(self, index: int, epoch: int) -> Picture:
        if self._world is None:
            self._world = SceneWorld(self.size, self.seed, self.split, self.max_objects, self.empty_fraction)
        frame = self._world.image(epoch * self.num_images + index)
        if not self.with_shapes:
            return Picture(frame.image, frame.boxes, frame.labels)
        masks = masks_of(frame.masks)
        areas = frame.masks.sum(axis=(1, 2)).astype(np.float32)
        return Picture(frame.image, frame.boxes, frame.labels, masks=masks, keypoints=frame.keypoints, areas=areas)


def masks_of(masks: npt.NDArray[np.bool_]) -> Masks:
    """Masks bool [N, H, W] as run lengths."""
    height, width = masks.shape[1:]
    return Masks((height, width), tuple(encode_mask(mask, (0, 0), (height, width)) for mask in masks))
