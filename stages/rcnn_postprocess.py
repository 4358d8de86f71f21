"""From an R-CNN's outputs to detections in source pixels."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..pipeline.errors import ConfigError, FrameError
from ..pipeline.packet import Array, Packet
from .detections import Detections
from .masks import Masks, encode_mask

MAX_MASK_BYTES = 8 << 20
"""Most that the masks of one frame may take; a hundred jagged ones in a large image take less than a tenth."""
_MASK_PADDING = 1
_MASK_THRESHOLD = 0.5
_Float = npt.NDArray[np.float32]


class RcnnOutputs(NamedTuple):
    """What the last graph of an R-CNN gives, best first (`models/rcnn_tail.py`)."""

    boxes: Array
    """float32 [N, 4] xyxy in pixels of the network's input."""
    scores: Array
    """float32 [N] in [0, 1]."""
    labels: Array
    """int64 [N]."""
    masks: Array | None = None
    """float32 [N, h, w] in [0, 1], over the box."""
    heatmaps: Array | None = None
    """float32 [N, K, h, w] logits, over the box."""

    @staticmethod
    def from_tensors(tensors: dict[str, Array]) -> RcnnOutputs:
        """Raises ConfigError for one that is missing."""
        try:
            return RcnnOutputs(
                tensors["det_boxes"],
                tensors["det_scores"],
                tensors["det_labels"],
                tensors.get("det_masks"),
                tensors.get("det_heatmaps"),
            )
        except KeyError as error:
            raise ConfigError(
                f"postprocess needs {error.args[0]!r} and gets {sorted(tensors)}; check the order of the stages"
            ) from error


class RcnnPostprocess:
    """Stage: an R-CNN's outputs -> detections, those with a score of at least `score_threshold`.

    Boxes, masks and keypoints are scaled from the valid part of the network's input to the source image. An output that is
    not finite, or masks of more than `MAX_MASK_BYTES`, fail the frame.
    """

    def __init__(self, score_threshold: float) -> None:
        self.name = "postprocess"
        self._score_threshold = score_threshold

    def process(self, packet: Packet) -> None:
        outputs = RcnnOutputs.from_tensors(dict(packet.tensors))
        detections = rcnn_detections(outputs, packet.source_size, packet.valid_size, self._score_threshold)
        if detections.masks is not None and sum(map(len, detections.masks.counts)) > MAX_MASK_BYTES:
            raise FrameError(f"the masks of frame {packet.frame} take more than {MAX_MASK_BYTES >> 20} MiB")
        packet.tensors = detections.to_tensors()
        packet.release()

    def close(self) -> None:
        pass


def rcnn_detections(
    outputs: RcnnOutputs, source_size: tuple[int, int], valid_size: tuple[int, int], score_threshold: float
) -> Detections:
    """Detections in an image of `source_size` that fills `valid_size` of the network's input (height, width).

    Source: `GeneralizedRCNNTransform.postprocess`, `paste_masks_in_image` and `heatmaps_to_keypoints` of torchvision, masks at
    the threshold of its evaluation, 0.5. Raises FrameError for values that are not finite.
    """
    if not all(np.isfinite(each).all() for each in outputs if each is not None):
        raise FrameError("the network's output is not finite")
    scores: _Float = outputs.scores.astype(np.float32, copy=False)
    keep = np.flatnonzero(scores >= score_threshold)
    ratio = np.array([source_size[1] / valid_size[1], source_size[0] / valid_size[0]], np.float32)
    small: _Float = outputs.boxes[keep].astype(np.float32, copy=False)
    boxes = small * np.tile(ratio, 2)
    masks = keypoints = None
    if outputs.masks is not None:
        masks = Masks(source_size, tuple(_paste(outputs.masks[i], boxes[n], source_size) for n, i in enumerate(keep)))
    if outputs.heatmaps is not None:
        points = [_peaks(outputs.heatmaps[i], small[n]) for n, i in enumerate(keep)]
        keypoints = np.stack(points) if points else np.zeros((0, outputs.heatmaps.shape[1], 3), np.float32)
        keypoints[:, :, :2] *= ratio
    limits = np.array([source_size[1], source_size[0]] * 2, np.float32)
    return Detections(
        np.clip(boxes, 0, limits),
        scores[keep],
        outputs.labels[keep].astype(np.int32),
        masks,
        keypoints,
    )


def _paste(mask: Array, box: _Float, size: tuple[int, int]) -> bytes:
    """A mask over its box, in the image: resized bilinearly with one cell of padding, as it was trained."""
    grown = np.pad(mask.astype(np.float32, copy=False), _MASK_PADDING)
    half = (box[2:] - box[:2]) / 2 * (grown.shape[0] / mask.shape[0])
    centre = (box[2:] + box[:2]) / 2
    (x0, y0), (x1, y1) = (centre - half).astype(int).tolist(), (centre + half).astype(int).tolist()
    resized = cv2.resize(grown, (max(1, x1 - x0 + 1), max(1, y1 - y0 + 1)), interpolation=cv2.INTER_LINEAR)
    top, left = max(0, y0), max(0, x0)
    part = resized[top - y0 : max(0, size[0] - y0), left - x0 : max(0, size[1] - x0)] > _MASK_THRESHOLD
    return encode_mask(part, (top, left), size)


def _peaks(heatmaps: Array, box: _Float) -> _Float:
    """[K, h, w] over `box` to [K, 3]: x, y and value of each map's highest point, at the resolution of the input's pixels."""
    sides = np.maximum(box[2:] - box[:2], np.float32(1))
    width, height = (int(side) for side in np.ceil(sides))
    maps = cv2.resize(
        np.ascontiguousarray(heatmaps.transpose(1, 2, 0), np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    flat = maps.reshape(width * height, -1)
    best = flat.argmax(axis=0)
    values = np.take_along_axis(flat, best[np.newaxis], axis=0)[0]
    at = np.stack([best % width, best // width], axis=1).astype(np.float32) + np.float32(0.5)
    points = at * (sides / np.array([width, height], np.float32)) + box[:2]
    return np.concatenate([points, values[:, np.newaxis]], axis=1).astype(np.float32)
