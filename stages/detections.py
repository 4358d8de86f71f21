"""Detections of one frame: arrays of boxes, scores and labels, for some detectors with masks or keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..pipeline.packet import Array
from .bundle import PostProcess
from .masks import Masks

_BOX_TENSORS = ("boxes", "scores", "labels")
_MASK_TENSORS = ("mask_rle", "mask_ends", "mask_size")
_KEYPOINT_TENSORS = ("keypoints",)


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one frame, best first."""

    boxes: npt.NDArray[np.float32]
    """[N, 4] xyxy in pixels of the source image."""
    scores: npt.NDArray[np.float32]
    """[N] in [0, 1]."""
    labels: npt.NDArray[np.int32]
    """[N] index into the bundle's classes."""
    masks: Masks | None = None
    """N of them; None where the detector makes none."""
    keypoints: npt.NDArray[np.float32] | None = None
    """[N, K, 3] x, y in pixels of the source image, and a score (a logit); None where the detector makes none."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def none() -> Detections:
        """No detection at all."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    @staticmethod
    def from_tensors(tensors: Mapping[str, Array]) -> Detections:
        """From the tensors of a packet that `to_tensors` made; copies, since a packet's arrays are short-lived."""
        return Detections(
            np.array(tensors["boxes"], np.float32),
            np.array(tensors["scores"], np.float32),
            np.array(tensors["labels"], np.int32),
            Masks.from_tensors(tensors) if "mask_rle" in tensors else None,
            np.array(tensors["keypoints"], np.float32) if "keypoints" in tensors else None,
        )

    def to_tensors(self) -> dict[str, Array]:
        """As tensors of a packet: they cross ranks like any other. Their names are `detection_tensors`."""
        tensors: dict[str, Array] = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        if self.masks is not None:
            tensors |= self.masks.to_tensors()
        if self.keypoints is not None:
            tensors["keypoints"] = self.keypoints
        return tensors

    def above(self, score_threshold: float) -> Detections:
        """Only those with a score of at least `score_threshold`."""
        keep = np.flatnonzero(self.scores >= score_threshold)
        return Detections(
            self.boxes[keep],
            self.scores[keep],
            self.labels[keep],
            None if self.masks is None else self.masks.subset(keep),
            None if self.keypoints is None else self.keypoints[keep],
        )

    def to_json(self, classes: Sequence[str]) -> list[dict[str, object]]:
        """One object per detection: `box` xyxy, `score`, `label` (the class name), and where there are any `mask` (COCO's
        `size` and `counts`) and `keypoints` (a list of x, y, score)."""
        objects: list[dict[str, object]] = []
        for index, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels, strict=True)):
            each: dict[str, object] = {
                "box": [round(float(value), 2) for value in box],
                "score": round(float(score), 5),
                "label": classes[int(label)] if 0 <= int(label) < len(classes) else str(int(label)),
            }
            if self.masks is not None:
                each["mask"] = self.masks.to_json(index)
            if self.keypoints is not None:
                each["keypoints"] = [[round(float(value), 2) for value in point] for point in self.keypoints[index]]
            objects.append(each)
        return objects


def detection_tensors(postprocess: PostProcess) -> tuple[str, ...]:
    """Names of the tensors that carry what this post-processing makes, in message order."""
    return (
        _BOX_TENSORS
        + (_MASK_TENSORS if postprocess.masks else ())
        + (_KEYPOINT_TENSORS if postprocess.num_keypoints else ())
    )
