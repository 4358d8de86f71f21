"""Detections of one frame: arrays of boxes, scores and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..pipeline.packet import Array


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one frame, best first."""

    boxes: npt.NDArray[np.float32]
    """[N, 4] xyxy in pixels of the source image."""
    scores: npt.NDArray[np.float32]
    """[N] in [0, 1]."""
    labels: npt.NDArray[np.int32]
    """[N] index into the bundle's classes."""

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def none() -> Detections:
        """No detection at all."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    @staticmethod
    def from_tensors(tensors: Mapping[str, Array]) -> Detections:
        """From the tensors `boxes`, `scores` and `labels` of a packet; copies, since a packet's arrays are short-lived."""
        return Detections(
            np.array(tensors["boxes"], np.float32),
            np.array(tensors["scores"], np.float32),
            np.array(tensors["labels"], np.int32),
        )

    def to_tensors(self) -> dict[str, Array]:
        """As tensors of a packet: they cross ranks like any other."""
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}

    def above(self, score_threshold: float) -> Detections:
        """Only those with a score of at least `score_threshold`."""
        keep = self.scores >= score_threshold
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])

    def to_json(self, classes: Sequence[str]) -> list[dict[str, object]]:
        """One object per detection: `box` xyxy, `score`, `label` (the class name)."""
        return [
            {
                "box": [round(float(value), 2) for value in box],
                "score": round(float(score), 5),
                "label": classes[int(label)] if 0 <= int(label) < len(classes) else str(int(label)),
            }
            for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]
