"""Accuracy of a detector at each of its widths."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from torch import nn

from ..bench.accuracy import Accuracy
from ..bench.pictures import Pictures
from ..models.slimmable import set_width, widths_of
from ..stages.bundle import PreProcess
from .evaluate import evaluate_detector


def evaluate_widths(
    model: nn.Module, pictures: Pictures, num_images: int, preprocess: PreProcess
) -> dict[float, Accuracy]:
    """Of the first `num_images` pictures, by width, increasing; see `evaluate_detector`. Leaves the detector at width 1."""
    found = {}
    try:
        for width in widths_of(model):
            set_width(model, width)
            found[width] = evaluate_detector(model, pictures, num_images, preprocess)
    finally:
        set_width(model, 1.0)
    return found


def widths_json(found: Mapping[float, Accuracy]) -> dict[str, Any]:
    """As JSON values: the means over the widths under the usual names, and each width's own under "widths"."""
    means = {}
    for name, values in (
        ("mAP", [each.map for each in found.values()]),
        ("mAP@50", [each.map_50 for each in found.values()]),
        ("mAP@75", [each.map_75 for each in found.values()]),
    ):
        known = [value for value in values if value is not None]
        means[name] = round(fmean(known), 5) if known else None
    first = next(iter(found.values()))
    return {
        "num_images": first.num_images,
        "num_objects": first.num_objects,
        **means,
        "widths": {
            f"{width:g}": {"mAP": _rounded(each.map), "mAP@50": _rounded(each.map_50)} for width, each in found.items()
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
