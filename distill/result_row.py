"""A line of a table of results, and the file that keeps those of one experiment."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pipeline.errors import UsageError


@dataclass(frozen=True)
class Row:
    """One detector at one setting on the images held out."""

    name: str
    family: str
    """Of its points in the figures."""
    seed: int
    wire: str
    mean_precision: float | None
    """mAP@50:95 in [0, 1]; None where the images have no object."""
    mean_precision_50: float | None
    bytes_per_frame: float
    """Mean payload between head and tail, or of the image."""
    edge_macs: int
    """Multiply-accumulates of the head; 0 where all of it is behind the wire."""
    num_parameters: int
    """Of head and tail."""
    width: float = 1.0
    """Share of the bottleneck's channels that are active."""
    note: str = ""


def save_rows(path: Path, circumstances: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Keep the rows of one experiment, with what they were measured under, as JSON. Raises UsageError: not writable."""
    content = {"circumstances": circumstances, "rows": [dataclasses.asdict(row) for row in rows]}
    write_text(path, json.dumps(content, indent=1) + "\n")


def load_rows(path: Path, circumstances: Mapping[str, Any]) -> list[Row] | None:
    """What `save_rows` kept; None where there is nothing, or something measured under other circumstances."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["circumstances"] != json.loads(json.dumps(circumstances)):
            return None
        return [Row(**row) for row in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none. Raises UsageError."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); make room and try again") from error
