"""How far a chain of engines is from the bundle's golden frames, and whether that is near enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pydantic

from ..pipeline.errors import FrameError
from ..pipeline.packet import Array
from .bundle import Bundle
from .detections import Detections
from .postprocess import golden_detections

TOLERANCES = {"fp32": 1e-2, "fp16": 3e-2, "bf16": 8e-2, "int8": 2e-1}
"""Precision -> largest relative L2 error of a float32 wire tensor; and of `pred_logits`, and the largest absolute error of
`pred_boxes`, where nothing is detected."""
MIN_IOU = 0.9
MAX_SCORE_DIFFERENCE = 0.1
_RCNN_THRESHOLD = 0.1
"""Detections of an R-CNN count from here, where the bundle's threshold is higher: it has no logits to decide for it."""
RCNN_MISSES = 0.02
"""Share of an R-CNN's detections that may lack a counterpart: rounding decides between proposals that nearly tie, and one that
is chosen or suppressed otherwise changes what is detected there."""


class Agreement(pydantic.BaseModel):
    """What a chain computes on the golden frames, beside the golden values. Errors are the largest of all frames."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    wire_error: float
    """Relative L2 error of a float32 wire tensor; 0 for a bundle of one graph."""
    logits_error: float
    """Relative L2 error of `pred_logits`; 0 for an R-CNN, which has none."""
    box_error: float
    """Absolute error of `pred_boxes`, in parts of the image's side; 0 for an R-CNN."""
    num_detections: int
    """Golden and own detections above the bundle's score threshold."""
    num_matched: int
    """Those of them that the other side has too."""
    disagreement: str
    """What is too far off, one clause; empty if it agrees."""


def agreement_of(
    bundle: Bundle, golden: Sequence[Mapping[str, Array]], actual: Sequence[Mapping[str, Array]], precision: str
) -> Agreement:
    """Compare frame by frame; `actual` has every float32 wire tensor and final output by name, as `golden` has.

    A detection is matched by one of the other side with the same class, an IoU of at least 0.9 and a score that differs by
    at most 0.1, be that above the threshold or not. Every golden and every own detection must be matched (of an R-CNN's, all
    but `RCNN_MISSES`). Where there is
    none (an untrained detector), logits and boxes decide; of an R-CNN, whose graph gives detections, the wire tensors.
    """
    tolerance = TOLERANCES[precision]
    wires = [name for stage in bundle.stages for name in stage.wire_tensors]
    pairs = list(zip(golden, actual, strict=True))
    wire_errors = {name: max(_relative_l2(g[name], a[name]) for g, a in pairs) for name in wires}
    worst = max(wire_errors, key=lambda name: wire_errors[name], default="")
    logits_error = box_error = 0.0
    if bundle.postprocess.kind == "detr":
        logits_error = max(_relative_l2(g["pred_logits"], a["pred_logits"]) for g, a in pairs)
        box_error = max(_largest_error(g["pred_boxes"], a["pred_boxes"]) for g, a in pairs)
    counts = [_matches(bundle, g, a) for g, a in pairs]
    num_detections, num_matched = sum(c[0] for c in counts), sum(c[1] for c in counts)
    disagreement = ""
    if not np.isfinite([*wire_errors.values(), logits_error, box_error]).all():
        disagreement = "its output is not finite"
    elif worst and wire_errors[worst] > tolerance:
        disagreement = f"[{worst}] is off by {wire_errors[worst]:.2g} (relative L2, {tolerance:g} allowed)"
    elif num_detections - num_matched > (RCNN_MISSES * num_detections if bundle.postprocess.kind == "rcnn" else 0):
        disagreement = (
            f"{num_detections - num_matched} of {num_detections} golden and own detections have no counterpart"
        )
    elif num_detections == 0 and logits_error > tolerance:
        disagreement = f"[pred_logits] is off by {logits_error:.2g} (relative L2, {tolerance:g} allowed)"
    elif num_detections == 0 and box_error > tolerance:
        disagreement = f"[pred_boxes] is off by {box_error:.2g} (of the image's side, {tolerance:g} allowed)"
    return Agreement(
        wire_error=max(wire_errors.values(), default=0.0),
        logits_error=logits_error,
        box_error=box_error,
        num_detections=num_detections,
        num_matched=num_matched,
        disagreement=disagreement,
    )


def _relative_l2(expected: Array, actual: Array) -> float:
    """|actual - expected| / |expected|, infinite where a value is not finite."""
    difference = np.linalg.norm(np.subtract(actual, expected, dtype=np.float64))
    error = float(difference / max(float(np.linalg.norm(expected)), 1e-12))
    return error if np.isfinite(error) else np.inf


def _largest_error(expected: Array, actual: Array) -> float:
    error = float(np.abs(np.subtract(actual, expected, dtype=np.float64)).max(initial=0))
    return error if np.isfinite(error) else np.inf


def _matches(bundle: Bundle, golden: Mapping[str, Array], actual: Mapping[str, Array]) -> tuple[int, int]:
    """How many detections both sides have together above the threshold, and how many of them are matched."""
    spec = bundle.postprocess
    threshold = spec.score_threshold if spec.kind == "detr" else min(spec.score_threshold, _RCNN_THRESHOLD)
    # A DETR's are in parts of the image's sides, which leaves IoU as it is.
    height, width = (1, 1) if spec.kind == "detr" else golden["valid_size"].tolist()
    try:
        sides = [golden_detections(spec, side, (int(height), int(width))) for side in (golden, actual)]
    except FrameError:
        return 0, 0
    wanted = [side.above(threshold) for side in sides]
    matched = num_matched(wanted[0], sides[1]) + num_matched(wanted[1], sides[0])
    return len(wanted[0]) + len(wanted[1]), matched


def num_matched(wanted: Detections, others: Detections) -> int:
    """How many of `wanted` have a counterpart among `others`: see `agreement_of`."""
    corner = np.maximum(wanted.boxes[:, None, :2], others.boxes[None, :, :2])
    overlap = np.clip(np.minimum(wanted.boxes[:, None, 2:], others.boxes[None, :, 2:]) - corner, 0, None).prod(axis=2)
    areas = [(d.boxes[:, 2:] - d.boxes[:, :2]).prod(axis=1) for d in (wanted, others)]
    iou = overlap / np.maximum(areas[0][:, None] + areas[1][None] - overlap, 1e-12)
    near = np.abs(wanted.scores[:, None] - others.scores[None]) <= MAX_SCORE_DIFFERENCE
    same = wanted.labels[:, None] == others.labels[None]
    return int(((iou >= MIN_IOU) & near & same).any(axis=1).sum())
