"""The verb `evaluate`: mAP of a checkpoint, of a bundle, or of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..bench.coco_pictures import CocoPictures
from ..bench.pictures import Pictures, ScenePictures
from ..bench.run_accuracy import accuracy_of_run
from ..bench.summary import DETECTIONS
from ..pipeline.errors import ConfigError, UsageError
from ..stages.bundle import MANIFEST, WIRE_SUFFIXES, Bundle, WireType
from ..stages.cache import cache_folder
from ..stages.engine_choice import choose_engine
from ..stages.scene_source import SceneSettings
from ..stages.source import SourceOptions, open_source
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
) -> dict[str, Any]:
    """Judge `what`: a bundle, a checkpoint or the folder of a training, or the folder of a run. Returns JSON values.

    `data` is `scenes[:seed=1,size=256x320,split=test]` (stills) or a folder in COCO's layout; a run on scenes needs none, a
    run on a folder's images the folder they are from. `engine`, `wire` and `threads` are for bundles.
    """
    if (what / MANIFEST).is_file():
        result = _bundle(what, data, num_images, engine, wire, threads, device, console)
    elif (what / DETECTIONS).is_file():
        result = _run(what, data)
    else:
        result = _checkpoint(what, data, num_images, threads, device, console)
    return result


def print_accuracy(result: dict[str, Any], what: Path, console: Console) -> None:
    """As a table."""
    table = Table(title=f"{what}: {result['num_images']} images, {result['num_objects']} objects")
    for column in ("class", "mAP@50:95", "mAP@50", "mAP@75"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, values in result["per_class"].items():
        table.add_row(name, _text(values["AP"]), _text(values["AP@50"]), "")
    table.add_section()
    table.add_row("all", _text(result["mAP"]), _text(result["mAP@50"]), _text(result["mAP@75"]))
    console.print(table)


def pictures_of(data: str, num_images: int, classes: tuple[str, ...] | None = None) -> Pictures:
    """What `data` names. Raises ConfigError, SourceError, or DataError."""
    prefix, _, arguments = data.partition(":")
    if prefix != _SCENES:
        return CocoPictures(data, classes)
    settings = SceneSettings.parse(arguments)
    pictures = ScenePictures(settings.size, settings.seed, settings.split, num_images, settings.objects, settings.empty)
    if classes is not None and pictures.classes != classes:
        raise ConfigError(
            f"the detector has {len(classes)} classes, which are not the {len(pictures.classes)} of the scenes; "
            f"give --data a folder with annotations of its classes"
        )
    return pictures


def _bundle(
    folder: Path, data: str, num_images: int, engine: str, wire: str, threads: int, device: str, console: Console
) -> dict[str, Any]:
    from ..bench.bundle_accuracy import evaluate_bundle

    if wire not in WIRE_SUFFIXES:
        raise ConfigError(f"there is no wire type {wire!r}; choose among {', '.join(WIRE_SUFFIXES)}")
    known: WireType = wire  # type: ignore[assignment]
    bundle = Bundle.load(folder)
    name, _, precision = engine.partition(":")
    if name == "auto":
        with console.status("choosing the engine"):
            choice = choose_engine(folder, bundle, threads=threads, cache=cache_folder())
        name, precision = choice.engine, choice.precision
    pictures = pictures_of(data or _SCENES, num_images)
    with _progress(console) as progress:
        accuracy = evaluate_bundle(
            folder,
            pictures,
            num_images,
            engine=name,
            precision=precision or "fp32",
            wire=known,
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
    from ..distill.evaluate import evaluate_detr
    from ..distill.finished import load_finished
    from .train import torch_device

    torch.set_num_threads(threads)
    detr, size, position = load_finished(path)
    pictures = pictures_of(data or _SCENES, num_images, position.classes)
    detr = detr.to(torch_device(device))
    with _progress(console) as progress:
        accuracy = evaluate_detr(detr, pictures, num_images, size, progress=progress)
    return {"engine": "torch", "precision": "fp32", "wire": ""} | accuracy.to_json(position.classes)


def _run(out: Path, data: str) -> dict[str, Any]:
    config = RunConfig.load(out / CONFIG)
    classes = Bundle.load(bundle_folder(config.bundle), verify=False).classes
    facts = {"engine": config.engine, "wire": config.wire}
    if not data:
        judged = judge(out, config, classes)
        if judged is None:
            raise ConfigError(
                f"the source of the run in {out} has no truth of its own; give --data a folder with annotations"
            )
        if "not_measured" in judged:
            raise ConfigError(f"the run in {out} cannot be judged: {judged['not_measured']}")
        return facts | judged
    pictures = CocoPictures(data, classes)
    source = open_source(config.source.uri, SourceOptions(stride=config.source.stride))
    try:
        return facts | accuracy_of_run(out, classes, lambda frame: pictures.truth_of(source.name_of(frame))).to_json(
            classes
        )
    finally:
        source.close()


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=console) as bar:
        task = bar.add_task("evaluate", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
