"""`detections.csv`: a line per detection."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from .line_file import LineFile
from .result import Result

_HEADER = ("frame", "pts_ns", "label", "score", "x_min", "y_min", "x_max", "y_max")


class CsvWriter:
    """A line per detection: `frame`, `pts_ns`, `label`, `score`, and the box's corners in source pixels."""

    draws = False

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        self.path = "detections.csv"
        self._classes = classes
        self._lines = LineFile(out / self.path)
        self._append(_HEADER)

    def write(self, result: Result) -> None:
        if result.detections is None:
            return
        for detection in result.detections.to_json(self._classes):
            box = detection["box"]
            assert isinstance(box, list)
            self._append((result.frame, result.pts_ns, detection["label"], detection["score"], *box))

    def flush(self) -> None:
        self._lines.flush()

    def close(self, hurried: bool) -> None:
        self._lines.close()

    def _append(self, row: Sequence[object]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(row)
        self._lines.append(text.getvalue())
