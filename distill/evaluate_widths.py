"""Accuracy of a detector at each of its widths."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from torch import nn

from ..bench.accuracy import SHAPES, Accuracy, IouType
from ..bench.pictures import Pictures
from ..models.slimmable import set_width, widths_of
from ..stages.bundle import PreProcess
from .evaluate import evaluate_kinds


def evaluate_widths(
    model: nn.Module, pictures: Pictures, num_images: int, preprocess: PreProcess
) -> dict[float, dict[IouType, Accuracy]]:
    """Of the first `num_images` pictures, by width, increasing; see `evaluate_kinds`. Leaves the detector at width 1."""
    found = {}
    try:
        for width in widths_of(model):
            set_width(model, width)
            found[width] = evaluate_kinds(model, pictures, num_images, preprocess)
    finally:
        set_width(model, 1.0)
    return found


def widths_json(found: Mapping[float, Mapping[IouType, Accuracy]]) -> dict[str, Any]:
    """As JSON values: the means over the widths under the usual names, and each width's own under "widths"."""
    result = _means([each["bbox"] for each in found.values()])
    widths = {f"{width:g}": _short(each["bbox"]) for width, each in found.items()}
    for kind, name in SHAPES.items():
        if all(kind in each for each in found.values()):
            result[name] = _means([each[kind] for each in found.values()])
            for width, each in found.items():
                widths[f"{width:g}"][name] = _short(each[kind])
    return {**result, "widths": widths}


def _means(found: list[Accuracy]) -> dict[str, Any]:
    means: dict[str, Any] = {"num_images": found[0].num_images, "num_objects": found[0].num_objects}
    for name, values in (
        ("mAP", [each.map for each in found]),
        ("mAP@50", [each.map_50 for each in found]),
        ("mAP@75", [each.map_75 for each in found]),
    ):
        known = [value for value in values if value is not None]
        means[name] = round(fmean(known), 5) if known else None
    return means


def _short(accuracy: Accuracy) -> dict[str, Any]:
    return {"mAP": _rounded(accuracy.map), "mAP@50": _rounded(accuracy.map_50)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
