"""The verb `evaluate`: mAP of a checkpoint, of a bundle, or of a finished run."""

from __future__ import annotations

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
from ..stages.scene_source import SceneSettings
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
) -> dict[str, Any]:
    """Judge `what`: a bundle, a checkpoint or the folder of a training, or the folder of a run. Returns JSON values.

    `data` is `scenes[:seed=1,size=256x320,split=test]` (stills) or a folder in COCO's layout; a run on scenes needs none, a
    run on a folder's images the folder they are from. `engine`, `wire`, `threads` and the filter are for bundles.
    """
    if filter_threshold is not None and (is_filtered is False or not 0 <= filter_threshold <= 1):
        raise ConfigError(f"--filter-threshold {filter_threshold:g} must be in [0, 1] and does not go with --no-filter")
    if (what / MANIFEST).is_file():
        filtering = (True if filter_threshold is not None else is_filtered, filter_threshold)
        result = _bundle(what, data, num_images, engine, wire, threads, device, console, filtering)
    elif (what / DETECTIONS).is_file():
        result = _run(what, data)
    else:
        result = _checkpoint(what, data, num_images, threads, device, console)
    return result


def print_accuracy(result: dict[str, Any], what: Path, console: Console) -> None:
    """As tables: of boxes, and of masks and keypoints where they were judged."""
    _print_kind(result, f"{what}: {result['num_images']} images, {result['num_objects']} objects", console)
    for kind in ("masks", "keypoints"):
        if kind in result:
            _print_kind(result[kind], f"{kind}: {result[kind]['num_objects']} objects", console)
    if "bytes_per_frame" in result:
        ended = f", {result['num_empty']} frames ended by the filter" if result["num_empty"] else ""
        console.print(f"{result['bytes_per_frame']:,.0f} bytes a frame as {result['wire']}{ended}", highlight=False)


def _print_kind(result: dict[str, Any], title: str, console: Console) -> None:
    table = Table(title=title)
    for column in ("class", "mAP@50:95", "mAP@50", "mAP@75"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, values in result["per_class"].items():
        table.add_row(name, _text(values["AP"]), _text(values["AP@50"]), "")
    table.add_section()
    table.add_row("all", _text(result["mAP"]), _text(result["mAP@50"]), _text(result["mAP@75"]))
    console.print(table)


def pictures_of(
    data: str, num_images: int, classes: tuple[str, ...] | None = None, *, with_shapes: bool = False
) -> Pictures:
    """What `data` names, with masks and keypoints too if asked. Raises ConfigError, SourceError, or DataError."""
    prefix, _, arguments = data.partition(":")
    if prefix != _SCENES:
        return CocoPictures(data, classes, with_shapes=with_shapes)
    settings = SceneSettings.parse(arguments)
    pictures = ScenePictures(
        settings.size,
        settings.seed,
        settings.split,
        num_images,
        settings.objects,
        settings.empty,
        with_shapes=with_shapes,
    )
    if classes is not None and pictures.classes != classes:
        raise ConfigError(
            f"the detector has {len(classes)} classes, which are not the {len(pictures.classes)} of the scenes; "
            f"give --data a folder with annotations of its classes"
        )
    return pictures


def _bundle(
    folder: Path,
    data: str,
    num_images: int,
    engine: str,
    wire: str,
    threads: int,
    device: str,
    console: Console,
    filtering: tuple[bool | None, float | None],
) -> dict[str, Any]:
    """`filtering` is whether to filter, None where the bundle has a filter, and the threshold, None for its own."""
    from ..bench.bundle_accuracy import evaluate_bundle

    known = WireForm.of(wire).name
    bundle = Bundle.load(folder)
    name, _, precision = engine.partition(":")
    if name == "auto":
        with console.status("choosing the engine"):
            choice = choose_engine(folder, bundle, threads=threads, cache=cache_folder())
        name, precision = choice.engine, choice.precision
    has_shapes = bundle.postprocess.masks or bundle.postprocess.num_keypoints > 0
    pictures = pictures_of(data or _SCENES, num_images, with_shapes=has_shapes)
    with _progress(console) as progress:
        accuracy = evaluate_bundle(
            folder,
            pictures,
            num_images,
            engine=name,
            precision=precision or "fp32",
            wire=known,
            is_filtered=filtering[0],
            filter_threshold=filtering[1],
            threads=threads,
            device=device,
            progress=progress,
        )
    return {"engine": name, "precision": precision or "fp32", "wire": wire} | accuracy.to_json(bundle.classes)


def _checkpoint(path: Path, data: str, num_images: int, threads: int, device: str, console: Console) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise UsageError("a checkpoint needs torch; add it with: pip install 'splitrail[torch]'") from error
    from ..distill.evaluate import evaluate_detector
    from ..distill.finished import load_finished
    from .train import torch_device

    torch.set_num_threads(threads)
    model, preprocess, position, _ = load_finished(path)
    pictures = pictures_of(data or _SCENES, num_images, position.classes)
    model = model.to(torch_device(device))
    with _progress(console) as progress:
        accuracy = evaluate_detector(model, pictures, num_images, preprocess, progress=progress)
    return {"engine": "torch", "precision": "fp32", "wire": ""} | accuracy.to_json(position.classes)


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
