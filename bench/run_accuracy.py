"""How right a finished run was, where its source knows the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..stages.detections import Detections
from ..stages.masks import Masks
from .accuracy import Accuracy, IouType, Truth, evaluate_all
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
            _masks(items),
            np.array([item["keypoints"] for item in items], np.float32) if items and "keypoints" in items[0] else None,
        )
    return found


def accuracy_of_run(out: Path, classes: Sequence[str], truth_of: Callable[[int], Truth]) -> dict[IouType, Accuracy]:
    """mAP of boxes, and of masks and keypoints where detections and truth have them, of a run over the frames that have a
    result; `truth_of` gives a frame's truth, labels indexing `classes`.

    Detections below the run's score threshold were never written, so the figures are lower bounds unless that was 0.
    """
    found = read_detections(out, classes)
    frames = sorted(found)
    return evaluate_all([truth_of(frame) for frame in frames], [found[frame] for frame in frames], len(classes))


def _masks(items: Sequence[dict[str, Any]]) -> Masks | None:
    if not items or "mask" not in items[0]:
        return None
    height, width = items[0]["mask"]["size"]
    return Masks((height, width), tuple(item["mask"]["counts"].encode("ascii") for item in items))
