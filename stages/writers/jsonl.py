"""`detections.jsonl`: a line per frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .line_file import LineFile
from .result import Result


class JsonlWriter:
    """A JSON object per captured frame, in order: `frame`, `capture_ns` (monotonic clock of the source's host), `pts_ns`,
    `fate` (done, empty, dropped, failed), `reason`, `detections` as a list of `box` (xyxy in source pixels), `score`, `label`."""

    draws = False

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        self.path = "detections.jsonl"
        self._classes = classes
        self._lines = LineFile(out / self.path)

    def write(self, result: Result) -> None:
        detections = [] if result.detections is None else result.detections.to_json(self._classes)
        line = {
            "frame": result.frame,
            "capture_ns": result.capture_ns,
            "pts_ns": result.pts_ns,
            "fate": result.fate,
            "reason": result.reason,
            "detections": detections,
        }
        self._lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))

    def flush(self) -> None:
        self._lines.flush()

    def close(self, hurried: bool) -> None:
        self._lines.close()
