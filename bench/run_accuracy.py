"""How right a finished run was, where its source knows the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..stages.detections import Detections
from .accuracy import Accuracy, Truth, evaluate_boxes
from .summary import DETECTIONS


def read_detections(out: Path, classes: Sequence[str]) -> dict[int, Detections]:
    """Frame -> its detections, of the frames of a run that have a result (done or empty)."""
    labels = {name: index for index, name in enumerate(classes)}
    found: dict[int, Detections] = {}
    for line in (out / DETECTIONS).read_text(encoding="utf-8").splitlines():
        frame: dict[str, Any] = json.loads(line)
        if frame["fate"] not in ("done", "empty"):
            continue
        items = frame["detections"]
        found[int(frame["frame"])] = Detections(
            np.array([item["box"] for item in items], np.float32).reshape(-1, 4),
            np.array([item["score"] for item in items], np.float32),
            np.array([labels[item["label"]] for item in items], np.int32),
        )
    return found


def accuracy_of_run(out: Path, classes: Sequence[str], truth_of: Callable[[int], Truth]) -> Accuracy:
    """mAP of a run over the frames that have a result; `truth_of` gives a frame's truth, labels indexing `classes`.

    Detections below the run's score threshold were never written, so the figure is a lower bound unless that was 0.
    """
    found = read_detections(out, classes)
    frames = sorted(found)
    return evaluate_boxes([truth_of(frame) for frame in frames], [found[frame] for frame in frames], len(classes))
