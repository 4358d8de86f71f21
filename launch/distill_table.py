"""The verb `distill table`: every experiment of a teacher in a row, and the table of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..pipeline.errors import ConfigError
from ..stages.bundle import MANIFEST
from .distill import DEFAULT_CONFIG, attach_verb, distil, recipe_path, require_torch
from .evaluate import pictures_of
from .train import torch_device

if TYPE_CHECKING:
    from ..distill.student_recipe import Task

RESULT = "result.json"


@dataclass(frozen=True)
class TablePlan:
    """What is trained and measured."""

    bottlenecks: tuple[int, ...] = (3, 6, 12)
    """Channels in layer1, each by HND and by GHND."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the first of them; the others have the first seed."""
    projections: tuple[int, ...] = (8, 32)
    """Channels behind the projection."""
    wires: tuple[str, ...] = ("fp16", "uint8", "uint6", "uint4", "uint8+zstd", "uint4+zstd")
    """Of everything that has a bottleneck."""
    plain_wires: tuple[str, ...] = ("fp16", "uint8")
    """Of what has none, cut after the projection."""
    qualities: tuple[int, ...] = (10, 30, 50, 75, 90)
    scales: tuple[float, ...] = (1.0, 0.5)
    num_images: int = 300
    empty: float = 0.46
    """Share of empty images where the filter is judged, as in the published data."""
    epochs: int | None = None
    """Of each phase; None: the recipe's."""
    images_per_epoch: int | None = None


QUICK = TablePlan(
    bottlenecks=(3,),
    seeds=(0,),
    projections=(8,),
    wires=("fp16", "uint8", "uint4+zstd"),
    qualities=(30, 75),
    num_images=60,
    epochs=1,
    images_per_epoch=200,
)
"""Minutes on two cores: it shows that all of it runs, not what it can reach."""


@dataclass(frozen=True)
class _Experiment:
    """A training, and what is measured of it."""

    folder: str
    task: Task
    name: str
    family: str
    changes: Mapping[str, Any]
    wires: tuple[str, ...]
    cuts: tuple[str, ...]
    seed: int = 0


def table_verb(
    teacher: str, out: Path, quick: bool, device: str, threads: int, processes: int, console: Console
) -> int:
    """Run what `out` does not have yet, and write `table.md`, `table.json` and `table.png` there; returns the exit code.

    Trained and measured on generated scenes. Raises UsageErrors as `distill_verb`.
    """
    require_torch()
    from ..distill.finished import export_checkpoint
    from ..distill.results_table import KeptPictures, Row, measure_bundle, measure_jpeg, write_table
    from ..models.export import ExportOptions

    plan = QUICK if quick else TablePlan()
    chosen = torch_device(device)
    cores = threads or 1
    _check_teacher(teacher)
    num_images = plan.num_images
    pictures = KeptPictures(pictures_of("scenes", num_images))
    rows: list[Row] = []

    def bundle_of(training: Path, cuts: tuple[str, ...], name: str) -> Path:
        folder = out / "bundles" / name
        if not (folder / MANIFEST).is_file():
            export_checkpoint(training, folder, ExportOptions(cuts=cuts))
        return folder

    def measured(made: list[Row]) -> None:
        rows.extend(made)
        for row in made:
            text = "-" if row.mean_precision is None else f"{row.mean_precision:.3f}"
            console.print(f"{row.name}, {row.wire}: mAP {text}, {row.bytes_per_frame:,.0f} bytes", highlight=False)

    plain = bundle_of(Path(teacher), ("projection",), "teacher")
    with console.status("measuring the teacher"):
        measured(measure_bundle(plain, pictures, num_images, plan.plain_wires, "teacher", "naive split", threads=cores))
        measured(measure_jpeg(plain, pictures, num_images, plan.qualities, plan.scales, threads=cores))
    for each in _experiments(plan):
        training = out / each.folder
        _train(each, teacher, training, plan, chosen, threads, processes, console)
        folder = bundle_of(training, each.cuts, each.folder)
        with console.status(f"measuring {each.name}"):
            measured(
                measure_bundle(
                    folder, pictures, num_images, each.wires, each.name, each.family, seed=each.seed, threads=cores
                )
            )

    student = out / _folder("ghnd", plan.bottlenecks[0], plan.seeds[0])
    training = out / "filter"
    filter_of = _Experiment("filter", "filter", "neural filter", "with filter", {}, ("uint8",), ())
    _train(filter_of, str(student), training, plan, chosen, threads, processes, console)
    judged = json.loads((training / RESULT).read_text(encoding="utf-8"))["held_out"]
    behind_stem = bundle_of(student, ("l0", "bottleneck"), "ghnd-behind-stem")
    filtered = out / "bundles" / "filtered"
    if not (filtered / MANIFEST).is_file():
        attach_verb(training, behind_stem, filtered, None, console)
    some_empty = KeptPictures(pictures_of(f"scenes:empty={plan.empty:g}", num_images))
    name = f"GHND, {plan.bottlenecks[0]} channels, {plan.empty:.0%} empty"
    told = f"AUC {judged['AUC']:.3f}, threshold {judged['threshold']:.3f}, recall {judged['recall']:.3f}"
    with console.status("measuring the filter"):
        for is_filtered, note in ((False, "without the filter"), (True, told)):
            measured(
                measure_bundle(
                    filtered,
                    some_empty,
                    num_images,
                    ("uint8",),
                    f"{name}, neural filter" if is_filtered else name,
                    "with filter" if is_filtered else "without filter, on the same images",
                    is_filtered=is_filtered,
                    note=note,
                    threads=cores,
                )
            )
    command = f"splitrail distill table{' --quick' if quick else ''} --teacher {teacher} --out {out}"
    heading = (f"Made by `{command}`, on {num_images} images held out.",)
    print(write_table(rows, out, heading), end="")
    return 0


def _experiments(plan: TablePlan) -> Iterable[_Experiment]:
    projected = ("projection",)
    yield _Experiment("sskd", "sskd", "SSKD backbone", "SSKD backbone", {}, plan.plain_wires, projected)
    yield _Experiment(
        "encoder", "encoder", "fewer encoder layers", "fewer encoder layers", {}, plan.plain_wires, projected
    )
    tasks: tuple[Task, ...] = ("hnd", "ghnd")
    for channels in plan.bottlenecks:
        for task in tasks:
            for seed in plan.seeds if channels == plan.bottlenecks[0] else plan.seeds[:1]:
                name = f"{task.upper()}, {channels} channels"
                changes: dict[str, Any] = {"student.bottleneck": channels, "seed": seed}
                folder = _folder(task, channels, seed)
                yield _Experiment(folder, task, name, task.upper(), changes, plan.wires, ("bottleneck",), seed)
    for channels in plan.projections:
        name = f"projection, {channels} channels"
        changes = {"student.bottleneck": channels, "student.bottleneck_at": "projection"}
        family = "bottleneck at the projection"
        yield _Experiment(f"projection-{channels}", "ghnd", name, family, changes, plan.wires, ("bottleneck",))


def _folder(task: str, channels: int, seed: int) -> str:
    return f"{task}-{channels}-seed{seed}"


def _train(
    each: _Experiment,
    teacher: str,
    out: Path,
    plan: TablePlan,
    device: Any,
    threads: int,
    processes: int,
    console: Console,
) -> None:
    """From where an earlier call was, if there was one."""
    from ..distill.checkpoint import LAST, Checkpoint
    from ..distill.student_recipe import StudentRecipe

    if (out / RESULT).is_file():
        return
    resume = (out / LAST).is_file()
    if resume:
        recipe = Checkpoint.load(out).position.distillation
    else:
        changes = {"teacher": teacher, **each.changes}
        if plan.images_per_epoch is not None:
            changes |= {"data.images_per_epoch": plan.images_per_epoch}
            changes |= {"data.validation_images": plan.num_images, "data.held_out_images": plan.num_images}
        recipe = StudentRecipe.load(recipe_path(DEFAULT_CONFIG[each.task]), each.task, changes)
        if plan.epochs is not None:
            recipe = recipe.with_epochs(plan.epochs)
    distil(recipe, out, resume, device, threads or (1 if processes > 1 else 0), processes, console)


def _check_teacher(teacher: str) -> None:
    """Raises ConfigError where not all of the experiments can learn from it."""
    from ..distill.teacher import load_teacher
    from ..models.detr import Detr

    if not Path(teacher).exists() or (Path(teacher) / MANIFEST).is_file():
        raise ConfigError(f"the table is made from a checkpoint or the folder of a training, which {teacher} is not")
    if not isinstance(load_teacher(teacher).model, Detr):
        raise ConfigError("the table is of a DETR; give the training of one")
