"""How far the detections of two runs over the same frames are apart: what a narrower wire or another engine changes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.errors import UsageError
from .summary import DETECTIONS

MIN_IOU = 0.5
"""Two boxes of one class that overlap less are not the same detection."""


@dataclass(frozen=True)
class DetectionDifference:
    """Of two runs A and B. Differences are of matched detections, None where none is matched."""

    num_frames: int
    """Frames that both have a result for."""
    num_identical_frames: int
    """Of those, with the same boxes, scores and labels to the last written digit."""
    num_detections: int
    """A's detections at or above the score floor."""
    num_matched: int
    """Of those, with a counterpart in B: same class, IoU of at least 0.5, each used once, the best overlap first."""
    mean_box_px: float | None
    """Largest difference of a box's four coordinates, mean over the matched, pixels of the source."""
    worst_box_px: float | None
    mean_score: float | None
    """Difference of the scores."""
    worst_score: float | None

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def detection_difference(a: Path, b: Path, score_floor: float) -> DetectionDifference:
    """Compare the runs in the folders `a` and `b`. B's detections count whatever their score, so that one which falls just
    below the floor is no miss. Raises UsageError where a folder has no detections or they have no frame in common."""
    first, second = _frames(a), _frames(b)
    frames = sorted(set(first) & set(second))
    if not frames:
        raise UsageError(f"{a} and {b} have no frame with a result in common; give two runs of the same source")
    wanted = {frame: [item for item in first[frame] if item["score"] >= score_floor] for frame in frames}
    pairs = [pair for frame in frames for pair in _match(wanted[frame], second[frame])]
    boxes = [float(np.abs(np.subtract(one["box"], other["box"])).max()) for one, other in pairs]
    scores = [abs(one["score"] - other["score"]) for one, other in pairs]
    return DetectionDifference(
        num_frames=len(frames),
        num_identical_frames=sum(first[frame] == second[frame] for frame in frames),
        num_detections=sum(map(len, wanted.values())),
        num_matched=len(pairs),
        mean_box_px=float(np.mean(boxes)) if boxes else None,
        worst_box_px=max(boxes, default=None),
        mean_score=float(np.mean(scores)) if scores else None,
        worst_score=max(scores, default=None),
    )


def _frames(folder: Path) -> dict[int, list[dict[str, Any]]]:
    try:
        lines = (folder / DETECTIONS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(
            f"{folder / DETECTIONS} cannot be read ({error.strerror}); give the folder of a run"
        ) from error
    frames = [json.loads(line) for line in lines]
    return {frame["frame"]: frame["detections"] for frame in frames if frame["fate"] in ("done", "empty")}


def _match(wanted: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    candidates = sorted(
        (
            (_iou(one["box"], other["box"]), i, j)
            for i, one in enumerate(wanted)
            for j, other in enumerate(others)
            if one["label"] == other["label"]
        ),
        reverse=True,
    )
    pairs, used_i, used_j = [], set(), set()
    for iou, i, j in candidates:
        if iou >= MIN_IOU and i not in used_i and j not in used_j:
            used_i.add(i)
            used_j.add(j)
            pairs.append((wanted[i], others[j]))
    return pairs


def _iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else float(a == b)
