"""The curves of a training as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..pipeline.errors import UsageError

CURVES = "curves.png"


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses and precision over epochs. Raises UsageError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("matplotlib is not installed; pip install 'splitrail[bench]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    for name, label in (("classes", "class"), ("l1", "L1"), ("giou", "1 - GIoU")):
        left.plot(epochs, [record[name] for record in history], label=label)
    left.set(xlabel="epoch", ylabel="loss of the last decoder layer", yscale="log")
    left.legend()
    judged = [record for record in history if record.get("mAP") is not None]
    for name in ("mAP@50", "mAP@75", "mAP"):
        right.plot([record["epoch"] for record in judged], [record[name] for record in judged], marker=".", label=name)
    right.set(xlabel="epoch", ylabel="precision on the validation images", ylim=(0, 1))
    right.legend()
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120)
    os.replace(partial, path)
