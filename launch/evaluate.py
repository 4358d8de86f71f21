"""The verb `evaluate`: mAP of a checkpoint, of a bundle, or of a finished run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..bench.accuracy import accuracies_json
from ..bench.coco_pictures import CocoPictures
from ..bench.pictures import Pictures, ScenePictures
from ..bench.run_accuracy import accuracy_of_run
from ..bench.summary import DETECTIONS
from ..pipeline.errors import ConfigError, UsageError
from ..stages.bundle import MANIFEST, Bundle
from ..stages.cache import cache_folder
from ..stages.engine_choice import choose_engine
from ..stages.nms_choice import NmsIou, parse_nms_iou
from ..stages.scene_source import SceneSettings
from ..stages.setting import WAYS, WIRES, Setting, settings_of
from ..stages.source import SourceOptions, open_source
from ..stages.wire import WireForm
from .config import RunConfig, bundle_folder
from .judge import judge
from .run import CONFIG

_SCENES = "scenes"


def evaluate_verb(
    what: Path,
    data: str,
    num_images: int,
    engine: str,
    wire: str,
    threads: int,
    device: str,
    console: Console,
    is_filtered: bool | None = None,
    filter_threshold: float | None = None,
    nms_iou: str | None = None,
    width: float = 1.0,
    *,
    all_settings: bool = False,
    record: bool = False,
) -> dict[str, Any]:
    """Judge `what`: a bundle, a checkpoint or the folder of a training, or the folder of a run. Returns JSON values.

    `data` is `scenes[:seed=1,size=256x320,split=test]` (stills) or a folder in COCO's layout; a run on scenes needs none, a
    run on a folder's images the folder they are from. `engine`, `wire`, `width`, `threads` and the filter are for bundles, and so
    are `all_settings`, which judges every width, wire and way of `setting.settings_of`, and `record`, which writes what was found
    into the bundle's table of accuracies. `nms_iou` is what `parse_nms_iou` takes, of bundles and checkpoints.
    """
    if filter_threshold is not None and (is_filtered is False or not 0 <= filter_threshold <= 1):
        raise ConfigError(f"--filter-threshold {filter_threshold:g} must be in [0, 1] and does not go with --no-filter")
    chosen = None if nms_iou is None else parse_nms_iou(nms_iou)
    if (what / MANIFEST).is_file():
        filtering = (True if filter_threshold is not None else is_filtered, filter_threshold)
        if record and chosen is not None:
            raise ConfigError("--record keeps what the bundle itself does; leave --nms-iou out")
        if record and not os.access(what, os.W_OK):
            raise ConfigError(
                f"{what} cannot be written, so --record has no place; copy the bundle to a folder of yours"
            )
        if all_settings and (width != 1 or wire != "fp32"):
            raise ConfigError("--all-settings judges every width and wire type; leave --width and --wire out")
        only = None if all_settings else (width, wire)
        result = _bundle(what, data, num_images, engine, only, threads, device, console, filtering, chosen, record)
    elif all_settings or record:
        raise ConfigError(f"{what} is no bundle; --all-settings and --record are for bundles")
    elif (what / DETECTIONS).is_file():
        if width != 1:
            raise ConfigError(f"the run in {what} is over; give --width with its bundle")
        if chosen is not None:
            raise ConfigError(f"the detections in {what} are as they were reported; give --nms-iou to 'splitrail run'")
        result = _run(what, data)
    else:
        result = _checkpoint(what, data, num_images, threads, device, console, chosen, width)
    return result


def print_accuracy(result: dict[str, Any], what: Path, console: Console) -> None:
    """As tables: of boxes, and of masks and keypoints where they were judged; of several settings one table of boxes."""
    if "settings" in result:
        _print_settings(result, what, console)
        return
    _print_kind(result, f"{what}: {result['num_images']} images, {result['num_objects']} objects", console)
    for kind in ("masks", "keypoints"):
        if kind in result:
            _print_kind(result[kind], f"{kind}: {result[kind]['num_objects']} objects", console)
    if "bytes_per_frame" in result:
        ended = f", {result['num_empty']} frames ended by the filter" if result["num_empty"] else ""
        console.print(f"{result['bytes_per_frame']:,.0f} bytes a frame as {result['wire']}{ended}", highlight=False)
    if result.get("recorded"):
        console.print(f"recorded in {what / MANIFEST}", highlight=False)


def _print_kind(result: dict[str, Any], title: str, console: Console) -> None:
    table = Table(title=title)
    for column in ("class", "mAP@50:95", "mAP@50", "mAP@75"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, values in result["per_class"].items():
        table.add_row(name, _text(values["AP"]), _text(values["AP@50"]), "")
    table.add_section()
    table.add_row("all", _text(result["mAP"]), _text(result["mAP@50"]), _text(result["mAP@75"]))
    console.print(table)


def _print_settings(result: dict[str, Any], what: Path, console: Console) -> None:
    table = Table(title=f"{what}: {result['num_images']} images, {result['num_objects']} objects")
    for column in ("setting", "bytes a frame", "mAP@50:95", "mAP@50"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for row in result["settings"]:
        table.add_row(row["setting"], f"{row['bytes_per_frame']:,.0f}", _text(row["mAP"]), _text(row["mAP@50"]))
    console.print(table)
    if result["recorded"]:
        console.print(f"recorded in {what / MANIFEST}", highlight=False)


def pictures_of(data: str, num_images: int, *, with_shapes: bool = False) -> Pictures:
    """What `data` names, with masks and keypoints too if asked. Raises ConfigError, SourceError, or DataError."""
    prefix, _, arguments = data.partition(":")
    if prefix != _SCENES:
        return CocoPictures(data, with_shapes=with_shapes)
    settings = SceneSettings.parse(arguments)
    return ScenePictures(
        settings.size,
        settings.seed,
        settings.split,
        num_images,
        settings.objects,
        settings.empty,
        with_shapes=with_shapes,
    )


def _bundle(
    folder: Path,
    data: str,
    num_images: int,
    engine: str,
    only: tuple[float, str] | None,
    threads: int,
    device: str,
    console: Console,
    filtering: tuple[bool | None, float | None],
    nms_iou: NmsIou | None,
    record: bool,
) -> dict[str, Any]:
    """`only` is the width and the wire of a single split; None judges every setting, without the filter unless it is asked for.
    `filtering` is whether to filter, None where the bundle has a filter, and the threshold, None for its own."""
    from ..bench.bundle_accuracy import evaluate_settings
    from ..bench.setting_tree import Computing

    bundle = Bundle.load(folder)
    is_filtered, threshold = filtering
    if only is None:
        settings = settings_of(bundle, WAYS, WIRES)
        is_filtered = bool(is_filtered)
    else:
        settings = (Setting("split", bundle.at_width(only[0]).width, WireForm.of(only[1]).name),)
    name, _, precision = engine.partition(":")
    if name == "auto":
        with console.status("choosing the engine"):
            choice = choose_engine(folder, bundle.at_width(settings[0].width), threads=threads, cache=cache_folder())
        name, precision = choice.engine, choice.precision
    precision = precision or "fp32"
    has_shapes = bundle.postprocess.masks or bundle.postprocess.num_keypoints > 0
    pictures = pictures_of(data or _SCENES, num_images, with_shapes=has_shapes)
    with _progress(console) as progress:
        found = evaluate_settings(
            folder,
            pictures,
            num_images,
            settings,
            Computing(name, precision, threads, device),
            is_filtered=is_filtered,
            filter_threshold=threshold,
            nms_iou=nms_iou,
            progress=progress,
        )
    if record:
        if bundle.filter is not None and threshold is None and is_filtered is not False:
            threshold = bundle.filter.threshold
        judged_on = data if data.partition(":")[0] == _SCENES else Path(data).name if data else _SCENES
        rows = [
            accuracy.measured(setting, f"{judged_on}, by {name} {precision}", threshold)
            for setting, accuracy in zip(settings, found, strict=True)
        ]
        bundle.with_accuracy(rows).save(folder)
    facts: dict[str, Any] = {"engine": name, "precision": precision, "recorded": record}
    if only is not None:
        return facts | {"wire": only[1], "width": only[0]} | found[0].to_json(bundle.classes)
    return facts | {
        "num_images": found[0].boxes.num_images,
        "num_objects": found[0].boxes.num_objects,
        "settings": [
            {
                "setting": setting.name,
                "way": setting.way,
                "width": setting.width,
                "wire": setting.wire if setting.way == "split" else None,
                "jpeg_quality": setting.jpeg_quality,
                "bytes_per_frame": round(accuracy.bytes_per_frame, 1),
                "mAP": accuracy.boxes.map,
                "mAP@50": accuracy.boxes.map_50,
            }
            for setting, accuracy in zip(settings, found, strict=True)
        ],
    }


def _checkpoint(
    path: Path,
    data: str,
    num_images: int,
    threads: int,
    device: str,
    console: Console,
    nms_iou: NmsIou | None,
    width: float,
) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise UsageError("a checkpoint needs torch; add it with: pip install 'splitrail[torch]'") from error
    from ..distill.background import labelled_for
    from ..distill.evaluate import evaluate_kinds
    from ..distill.finished import load_finished
    from ..distill.goal import has_shapes
    from ..models.detector import config_of_detector, postprocess_of
    from ..models.slimmable import set_width
    from .train import torch_device

    torch.set_num_threads(threads)
    model, preprocess, position, _ = load_finished(path)
    set_width(model, width)
    with_shapes = has_shapes(postprocess_of(config_of_detector(model), 0.0))
    pictures = labelled_for(position.classes, pictures_of(data or _SCENES, num_images, with_shapes=with_shapes))
    if pictures.classes != position.classes:
        raise ConfigError(
            f"the detector has {len(position.classes)} classes, which are not the {len(pictures.classes)} of {data or _SCENES}; "
            f"give --data a folder with annotations of its classes"
        )
    model = model.to(torch_device(device))
    with _progress(console) as progress:
        found = evaluate_kinds(model, pictures, num_images, preprocess, nms_iou=nms_iou, progress=progress)
    return {"engine": "torch", "precision": "fp32", "wire": ""} | accuracies_json(found, position.classes)


def _run(out: Path, data: str) -> dict[str, Any]:
    config = RunConfig.load(out / CONFIG)
    bundle = Bundle.load(bundle_folder(config.bundle), verify=False)
    classes = bundle.classes
    facts = {"engine": config.engine, "wire": config.wire}
    if not data:
        judged = judge(out, config, bundle)
        if judged is None:
            raise ConfigError(
                f"the source of the run in {out} has no truth of its own; give --data a folder with annotations"
            )
        if "not_measured" in judged:
            raise ConfigError(f"the run in {out} cannot be judged: {judged['not_measured']}")
        return facts | judged
    has_shapes = bundle.postprocess.masks or bundle.postprocess.num_keypoints > 0
    pictures = CocoPictures(data, classes, with_shapes=has_shapes)
    source = open_source(config.source.uri, SourceOptions(stride=config.source.stride))
    try:
        found = accuracy_of_run(out, classes, lambda frame: pictures.truth_of(source.name_of(frame)))
        return facts | accuracies_json(found, classes)
    finally:
        source.close()


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=console) as bar:
        task = bar.add_task("evaluate", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
