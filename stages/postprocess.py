"""From a DETR's outputs to detections in source pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..pipeline.errors import ConfigError, FrameError
from ..pipeline.packet import Array, Packet
from ..pipeline.stage import Stage
from .bundle import PostProcess
from .detections import Detections
from .nms import class_nms
from .rcnn_postprocess import RcnnOutputs, RcnnPostprocess, rcnn_detections


def open_postprocess(spec: PostProcess, score_threshold: float | None = None) -> Stage:
    """The stage for a bundle's last graph, at the bundle's own threshold unless another is given."""
    threshold = spec.score_threshold if score_threshold is None else score_threshold
    return DetrPostprocess(threshold, spec.nms_iou) if spec.kind == "detr" else RcnnPostprocess(threshold)


def golden_detections(spec: PostProcess, outputs: Mapping[str, Array], valid_size: tuple[int, int]) -> Detections:
    """All detections, in pixels of the network's input, from the last graph's outputs by name. Raises FrameError.

    A DETR's are all there, suppressed in a run or not: engines are compared by what the network gives.
    """
    if spec.kind == "detr":
        return detr_detections(outputs["pred_logits"][0], outputs["pred_boxes"][0], valid_size, 0.0)
    return rcnn_detections(RcnnOutputs.from_tensors(dict(outputs)), valid_size, valid_size, 0.0)


class DetrPostprocess:
    """Stage: `pred_logits` float32 [1, Q, C + 1] and `pred_boxes` float32 [1, Q, 4] -> `boxes`, `scores`, `labels`.

    Softmax over the classes, the last one (no object) left out, the best class per query, scores of at least
    `score_threshold`, best first (Carion et al. 2020, section 3; `PostProcess` in DETR's detr.py). With `nms_iou`, which DETR
    as published has not, of two boxes of one class that overlap more the better-scored stays.
    Boxes are relative to the valid part of the input, hence to the source image; they are clipped to it. An output that
    is not finite fails the frame.
    """

    def __init__(self, score_threshold: float, nms_iou: float | None = None) -> None:
        self.name = "postprocess"
        self._score_threshold = score_threshold
        self._nms_iou = nms_iou

    def process(self, packet: Packet) -> None:
        try:
            logits, boxes = packet.tensors["pred_logits"], packet.tensors["pred_boxes"]
        except KeyError as error:
            found = sorted(packet.tensors)
            raise ConfigError(
                f"postprocess needs {error.args[0]!r} and gets {found}; check the order of the stages"
            ) from error
        detections = detr_detections(
            logits[0].astype(np.float32, copy=False),
            boxes[0].astype(np.float32, copy=False),
            packet.source_size,
            self._score_threshold,
            self._nms_iou,
        )
        packet.tensors = detections.to_tensors()
        packet.release()

    def close(self) -> None:
        pass


def detr_detections(
    logits: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    source_size: tuple[int, int],
    score_threshold: float,
    nms_iou: float | None = None,
) -> Detections:
    """Detections from logits [Q, C + 1] and boxes [Q, 4] cxcywh in [0, 1]; `source_size` is height, width in pixels.

    `nms_iou` in (0, 1]: see `class_nms`; None: none are suppressed. Raises FrameError for values that are not finite.
    """
    if not (np.isfinite(logits).all() and np.isfinite(boxes).all()):
        raise FrameError("the network's output is not finite")
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = weights[:, :-1] / weights.sum(axis=1, keepdims=True)
    labels = probabilities.argmax(axis=1)
    scores = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= score_threshold]
    height, width = source_size
    center, half = boxes[order, :2], boxes[order, 2:] / 2
    corners = np.concatenate([center - half, center + half], axis=1) * np.array([width, height] * 2, np.float32)
    corners = np.clip(corners, 0, np.array([width, height] * 2, np.float32))
    if nms_iou is not None:
        stays = class_nms(corners, labels[order], nms_iou)
        corners, order = corners[stays], order[stays]
    return Detections(corners.astype(np.float32), scores[order].astype(np.float32), labels[order].astype(np.int32))
