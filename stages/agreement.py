"""How far a chain of engines is from the bundle's golden frames, and whether that is near enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pydantic

from ..pipeline.errors import FrameError
from ..pipeline.packet import Array
from .bundle import Bundle
from .detections import Detections
from .postprocess import detr_detections

TOLERANCES = {"fp32": 1e-2, "fp16": 3e-2, "bf16": 8e-2, "int8": 2e-1}
"""Precision -> largest relative L2 error of a float32 wire tensor; and of `pred_logits`, and the largest absolute error of
`pred_boxes`, where nothing is detected."""
MIN_IOU = 0.9
MAX_SCORE_DIFFERENCE = 0.1


class Agreement(pydantic.BaseModel):
    """What a chain computes on the golden frames, beside the golden values. Errors are the largest of all frames."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    wire_error: float
    """Relative L2 error of a float32 wire tensor; 0 for a bundle of one graph."""
    logits_error: float
    """Relative L2 error of `pred_logits`."""
    box_error: float
    """Absolute error of `pred_boxes`, in parts of the image's side."""
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
    at most 0.1, be that above the threshold or not. Every golden and every own detection must be matched. Where there is
    none (an untrained detector), logits and boxes decide.
    """
    tolerance = TOLERANCES[precision]
    wires = [name for stage in bundle.stages for name in stage.wire_tensors]
    pairs = list(zip(golden, actual, strict=True))
    wire_errors = {name: max(_relative_l2(g[name], a[name]) for g, a in pairs) for name in wires}
    worst = max(wire_errors, key=lambda name: wire_errors[name], default="")
    logits_error = max(_relative_l2(g["pred_logits"], a["pred_logits"]) for g, a in pairs)
    box_error = max(_largest_error(g["pred_boxes"], a["pred_boxes"]) for g, a in pairs)
    counts = [_matches(bundle, g, a) for g, a in pairs]
    num_detections, num_matched = sum(c[0] for c in counts), sum(c[1] for c in counts)
    disagreement = ""
    if not np.isfinite([*wire_errors.values(), logits_error, box_error]).all():
        disagreement = "its output is not finite"
    elif worst and wire_errors[worst] > tolerance:
        disagreement = f"[{worst}] is off by {wire_errors[worst]:.2g} (relative L2, {tolerance:g} allowed)"
    elif num_matched < num_detections:
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
    try:
        # In parts of the image's sides, which leaves IoU as it is.
        sides = [detr_detections(s["pred_logits"][0], s["pred_boxes"][0], (1, 1), 0.0) for s in (golden, actual)]
    except FrameError:
        return 0, 0
    threshold = bundle.postprocess.score_threshold
    wanted = [side.above(threshold) for side in sides]
    matched = _num_matched(wanted[0], sides[1]) + _num_matched(wanted[1], sides[0])
    return len(wanted[0]) + len(wanted[1]), matched


def _num_matched(wanted: Detections, others: Detections) -> int:
    """How many of `wanted` have a counterpart among `others`."""
    corner = np.maximum(wanted.boxes[:, None, :2], others.boxes[None, :, :2])
    overlap = np.clip(np.minimum(wanted.boxes[:, None, 2:], others.boxes[None, :, 2:]) - corner, 0, None).prod(axis=2)
    areas = [(d.boxes[:, 2:] - d.boxes[:, :2]).prod(axis=1) for d in (wanted, others)]
    iou = overlap / np.maximum(areas[0][:, None] + areas[1][None] - overlap, 1e-12)
    near = np.abs(wanted.scores[:, None] - others.scores[None]) <= MAX_SCORE_DIFFERENCE
    same = wanted.labels[:, None] == others.labels[None]
    return int(((iou >= MIN_IOU) & near & same).any(axis=1).sum())
