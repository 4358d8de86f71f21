"""The exact truth of a generated picture, and the picture with it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

MIN_SIZE = 0.05
"""Smallest object, whole or what is seen of it: the longer side of its box over the short side of the picture."""
MAX_SIZE = 0.60
"""Largest object, whole: the longer side of its box over the short side of the picture."""
MAX_OBJECTS = 8
"""Most objects in a picture."""
MAX_OCCLUSION = 0.70
"""Most of an object's area that others hide or the edge cuts off."""


@dataclass(frozen=True, slots=True)
class SceneTruth:
    """What is in a generated picture, nearest last.

    An object of which less than 30 % is seen, or whose visible box is smaller than `MIN_SIZE`, is never in a still; in a
    clip, where objects come and go, it is in `ignored_boxes` instead, which an evaluation must neither want nor punish.
    """

    boxes: npt.NDArray[np.float32]
    """[N, 4] xyxy, pixels: the exact extent of the object's visible pixels, as COCO has it. Pixel k spans k to k + 1."""
    labels: npt.NDArray[np.int32]
    """[N] index into `CLASSES`."""
    keypoints: npt.NDArray[np.float32]
    """[N, 5, 3] x, y in pixels, and 2 visible, 1 hidden, 0 outside the picture (then x = y = 0); names in `KEYPOINTS`."""
    occlusion: npt.NDArray[np.float32]
    """[N] share of the object's area that others hide or the picture's edge cuts off, 0..`MAX_OCCLUSION`."""
    sizes: npt.NDArray[np.float32]
    """[N] longer side of the whole object's box, the hidden part included, over the short side of the picture."""
    identities: npt.NDArray[np.int32]
    """[N] the same number for the same object in all frames of a clip; the order of drawing in a still."""
    owner: npt.NDArray[np.uint8]
    """[H, W] i + 1 where object i is what is seen, 0 elsewhere."""
    ignored_boxes: npt.NDArray[np.float32]
    """[M, 4] xyxy, visible extent of objects that are too little in sight to count."""
    ignored_labels: npt.NDArray[np.int32]
    """[M] index into `CLASSES`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        """[N, H, W] the visible pixels of each object."""
        numbers = np.arange(1, len(self) + 1, dtype=np.uint8)
        return np.asarray(self.owner[None] == numbers[:, None, None], np.bool_)

    def with_image(self, image: npt.NDArray[np.uint8]) -> SceneFrame:
        """This truth together with its picture [H, W, 3] BGR."""
        return SceneFrame(**{entry.name: getattr(self, entry.name) for entry in fields(self)}, image=image)


@dataclass(frozen=True, slots=True)
class SceneFrame(SceneTruth):
    """A generated picture with its truth."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3] BGR 0..255."""
