"""Accuracy over bytes: a teacher, its students and JPEG offload on the same images held out, as table and figure."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..bench.accuracy import Accuracy
from ..bench.bundle_accuracy import evaluate_bundle
from ..bench.pictures import Picture, Pictures
from ..pipeline.errors import UsageError
from ..stages.bundle import Bundle
from ..stages.preprocess import letterbox_size

TABLE, ROWS, FIGURE = "table.md", "table.json", "table.png"
_COLUMNS = ("detector", "seed", "wire", "mAP", "mAP@50", "bytes per frame", "edge MMAC", "parameters", "note")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    family: str
    """Of its points in the figure."""
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
    note: str = ""


def measure_bundle(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    wires: Sequence[str],
    name: str,
    family: str,
    *,
    seed: int = 0,
    is_filtered: bool = False,
    note: str = "",
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """A row per wire type of a bundle with a head and a tail, on the first pictures.

    Raises BundleError, EngineError, ConfigError.
    """
    bundle = Bundle.load(folder)
    head = bundle.stages[: bundle.num_head_stages]
    graphs = [*bundle.stages, *((bundle.filter.graph,) if bundle.filter is not None and is_filtered else ())]
    edge_macs = sum(stage.num_macs for stage in (*head, *graphs[len(bundle.stages) :]))
    rows = []
    for wire in wires:
        accuracy = evaluate_bundle(
            folder,
            pictures,
            num_images,
            wire=wire,  # type: ignore[arg-type]
            is_filtered=is_filtered,
            threads=threads,
            progress=progress,
        )
        ended = f"{accuracy.num_empty} of {num_images} frames ended at the filter" if is_filtered else ""
        rows.append(
            Row(
                name,
                family,
                seed,
                wire,
                accuracy.boxes.map,
                accuracy.boxes.map_50,
                accuracy.bytes_per_frame,
                edge_macs,
                sum(graph.num_parameters for graph in graphs),
                ", ".join(filter(None, (note, ended))),
            )
        )
    return rows


def measure_jpeg(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    qualities: Sequence[int],
    scales: Sequence[float],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows for the whole detector behind the wire: JPEG of the native image and of smaller ones, and the network's raw input.

    Raises BundleError, EngineError.
    """
    bundle = Bundle.load(folder)
    num_parameters = sum(stage.num_parameters for stage in bundle.stages)
    rows = []
    for scale in scales:
        for quality in qualities:
            sent = JpegPictures(pictures, quality, scale)
            boxes = _whole(folder, sent, num_images, threads, progress)
            name = f"JPEG offload, quality {quality}" + (f", scaled to {scale:g}" if scale != 1 else "")
            num_bytes = sent.num_bytes / num_images
            rows.append(Row(name, "JPEG offload", 0, "jpeg", boxes.map, boxes.map_50, num_bytes, 0, num_parameters))
    raw = RawPictures(pictures, bundle.preprocess.size)
    boxes = _whole(folder, raw, num_images, threads, progress)
    raw_bytes = raw.num_bytes / num_images
    return [*rows, Row("raw offload", "raw offload", 0, "raw", boxes.map, boxes.map_50, raw_bytes, 0, num_parameters)]


def _whole(folder: Path, pictures: Pictures, num_images: int, threads: int, progress: Progress | None) -> Accuracy:
    return evaluate_bundle(folder, pictures, num_images, is_filtered=False, threads=threads, progress=progress).boxes


class KeptPictures:
    """Pictures that are looked at many times: made once, in memory from then on."""

    def __init__(self, pictures: Pictures) -> None:
        self.classes = pictures.classes
        self._pictures = pictures
        self._made: dict[tuple[int, int], Picture] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        if (index, epoch) not in self._made:
            self._made[index, epoch] = self._pictures.picture(index, epoch)
        return self._made[index, epoch]


class RawPictures:
    """Pictures as they are; counts the bytes of each in the network's size, without padding."""

    def __init__(self, pictures: Pictures, size: tuple[int, int] | None) -> None:
        self.classes = pictures.classes
        self.num_bytes = 0
        """Of all pictures that were given."""
        self._pictures = pictures
        self._size = size

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        picture = self._pictures.picture(index, epoch)
        height, width = picture.image.shape[:2]
        if self._size is not None:
            height, width = letterbox_size((height, width), self._size)
        self.num_bytes += 3 * height * width
        return picture


class JpegPictures:
    """Pictures as they are after a JPEG of `quality`, 1 to 100, of the image scaled by `scale`; counts its bytes.

    The image gets its own size again, so that the truth stays what it is.
    """

    def __init__(self, pictures: Pictures, quality: int, scale: float = 1.0) -> None:
        self.classes = pictures.classes
        self.num_bytes = 0
        """Of all pictures that were given."""
        self._pictures = pictures
        self._quality, self._scale = quality, scale

    def __len__(self) -> int:
        return len(self._pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        picture = self._pictures.picture(index, epoch)
        height, width = picture.image.shape[:2]
        small = (max(1, round(width * self._scale)), max(1, round(height * self._scale)))
        sent = picture.image if self._scale == 1 else cv2.resize(picture.image, small, interpolation=cv2.INTER_AREA)
        done, encoded = cv2.imencode(".jpg", sent, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        assert done
        assert decoded is not None
        self.num_bytes += len(encoded)
        if self._scale != 1:
            decoded = cv2.resize(decoded, (width, height), interpolation=cv2.INTER_LINEAR)
        return picture._replace(image=decoded.astype(np.uint8, copy=False))


def write_table(rows: Sequence[Row], out: Path, heading: Sequence[str]) -> str:
    """`table.md` below the lines of `heading`, `table.json`, and `table.png` where matplotlib is installed; returns the Markdown.

    Raises UsageError where they cannot be written.
    """
    lines = [*heading, "", f"| {' | '.join(_COLUMNS)} |", "|---|--:|---|--:|--:|--:|--:|--:|---|"]
    for row in rows:
        cells: tuple[Any, ...] = (
            row.name,
            row.seed,
            row.wire,
            _percent(row.mean_precision),
            _percent(row.mean_precision_50),
            f"{row.bytes_per_frame:,.0f}",
            f"{row.edge_macs / 1e6:,.0f}",
            f"{row.num_parameters:,}",
            row.note,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    text = "\n".join(lines) + "\n"
    values = json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n"
    try:
        for name, content in ((TABLE, text), (ROWS, values)):
            partial = out / f"{name}.partial"
            partial.write_text(content, encoding="utf-8")
            os.replace(partial, out / name)
        _draw(rows, out / FIGURE)
    except OSError as error:
        raise UsageError(
            f"the table cannot be written into {out} ({error.strerror}); make room and try again"
        ) from error
    return text


def _draw(rows: Sequence[Row], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, family in enumerate(dict.fromkeys(row.family for row in rows)):
        points = sorted(
            (row.bytes_per_frame, row.mean_precision)
            for row in rows
            if row.family == family and row.mean_precision is not None and row.bytes_per_frame
        )
        marker = "os^vD<>Pp*hX"[number % 12]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, linewidth=0.8, label=family)
    axes.set(xscale="log", xlabel="bytes per frame", ylabel="mAP@50:95 on the images held out")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120)
    os.replace(partial, path)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
