"""Rows of a table of results: a bundle at several wire types and widths, and its detector behind an image that travels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..bench.accuracy import Accuracy
from ..bench.bundle_accuracy import evaluate_bundle, evaluate_settings
from ..bench.pictures import Pictures
from ..bench.setting_tree import Computing
from ..stages.bundle import Bundle, WireType
from ..stages.setting import Setting
from .result_row import Row
from .sent_pictures import JpegPictures, RawPictures

Progress = Callable[[int, int], None]


def measure_bundle(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    wires: Sequence[WireType],
    name: str,
    family: str,
    *,
    seed: int = 0,
    is_filtered: bool = False,
    note: str = "",
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """A row per wire type and width of a bundle with a head and a tail, on the first pictures.

    Raises BundleError, EngineError, ConfigError.
    """
    bundle = Bundle.load(folder)
    settings = [Setting("split", width, wire) for wire in wires for width in bundle.widths]
    found = evaluate_settings(
        folder,
        pictures,
        num_images,
        settings,
        Computing(threads=threads),
        is_filtered=is_filtered,
        progress=progress,
    )
    rows = []
    for setting, accuracy in zip(settings, found, strict=True):
        view = bundle.at_width(setting.width)
        filtering = (view.filter.graph,) if view.filter is not None and is_filtered else ()
        ended = f"{accuracy.num_empty} of {num_images} frames ended at the filter" if is_filtered else ""
        rows.append(
            Row(
                name,
                family,
                seed,
                setting.wire,
                accuracy.boxes.map,
                accuracy.boxes.map_50,
                accuracy.bytes_per_frame,
                sum(stage.num_macs for stage in (*view.stages[: view.num_head_stages], *filtering)),
                sum(stage.num_parameters for stage in (*view.stages, *filtering)),
                setting.width,
                ", ".join(filter(None, (note, ended))),
            )
        )
    return rows


def measure_jpeg(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    quality: int,
    scale: float,
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[Row]:
    """The row of the whole detector behind the wire, which carries a JPEG of `quality`, 1 to 100, of the image scaled by `scale`.

    Raises BundleError, EngineError.
    """
    sent = JpegPictures(pictures, quality, scale)
    boxes = _whole(folder, sent, num_images, threads, progress)
    name = f"JPEG offload, quality {quality}" + (f", scaled to {scale:g}" if scale != 1 else "")
    return _offload(folder, name, "JPEG offload", "jpeg", boxes, sent.num_bytes / boxes.num_images)


def measure_raw(
    folder: Path, pictures: Pictures, num_images: int, *, threads: int = 1, progress: Progress | None = None
) -> list[Row]:
    """The row of the whole detector behind the wire, which carries the pixels of the network's input.

    Raises BundleError, EngineError.
    """
    sent = RawPictures(pictures, Bundle.load(folder).preprocess.size)
    boxes = _whole(folder, sent, num_images, threads, progress)
    return _offload(folder, "raw offload", "raw offload", "raw", boxes, sent.num_bytes / boxes.num_images)


def _offload(folder: Path, name: str, family: str, wire: str, boxes: Accuracy, num_bytes: float) -> list[Row]:
    num_parameters = sum(stage.num_parameters for stage in Bundle.load(folder).stages)
    return [Row(name, family, 0, wire, boxes.map, boxes.map_50, num_bytes, 0, num_parameters)]


def _whole(folder: Path, pictures: Pictures, num_images: int, threads: int, progress: Progress | None) -> Accuracy:
    return evaluate_bundle(folder, pictures, num_images, is_filtered=False, threads=threads, progress=progress).boxes
