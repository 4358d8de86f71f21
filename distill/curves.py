"""The curves of a training as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from ..pipeline.errors import UsageError
from .features import Place
from .goal import value_at
from .sandwich import NARROWEST, WIDEST

CURVES = "curves.png"
_LOSSES = {
    "classes": "class",
    "l1": "L1",
    "giou": "1 - GIoU",
    "objectness": "objectness of anchors",
    "rpn_box_reg": "boxes of proposals",
    "classifier": "class of regions",
    "box_reg": "boxes of regions",
    "entropy": "cross entropy",
    **{name: f"{name}, relative error" for name in (*get_args(Place), NARROWEST, WIDEST)},
}
"""Key of an epoch's record -> its name in the picture."""
_GOALS = {"mAP": ("mAP@50", "mAP@75", "mAP"), "AUC": ("AUC",)}
"""Goal -> what is drawn of an evaluation; of masks and keypoints the same, in their tables."""


def draw_curves(history: Sequence[dict[str, Any]], path: Path, goal: str = "mAP") -> None:
    """Losses and what evaluations gave over epochs; `goal` as `value_at` reads it. Raises UsageError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("matplotlib is not installed; pip install 'splitrail[bench]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in _LOSSES.items():
        known = [record for record in history if name in record]
        if known:
            left.plot(*_points(known, name), marker="." if len(known) == 1 else None, label=label)
    left.set(xlabel="epoch", ylabel="loss on the training images", yscale="log")
    left.legend()
    judged = [record for record in history if value_at(record, goal) is not None]
    table, _, last = goal.rpartition(".")
    for name in _GOALS[last]:
        key, label = (f"{table}.{name}", f"{name} of {table}") if table else (name, name)
        right.plot(*_points(judged, key), marker=".", label=label)
    right.set(xlabel="epoch", ylabel="on the validation images", ylim=(0, 1))
    right.legend()
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120)
    os.replace(partial, path)


def _points(records: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float | None]]:
    return [record["epoch"] for record in records], [value_at(record, key) for record in records]
