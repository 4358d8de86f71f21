"""The verbs `distill ...`: a teacher and a recipe to a student, a neural filter, or a table of them all."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..pipeline.errors import ConfigError, UsageError
from .config import CONFIGS
from .train import progress_bar, torch_device, watch_on

if TYPE_CHECKING:
    from ..distill.crew import Crew
    from ..distill.distillation import Distillation
    from ..distill.loop import Watch
    from ..distill.student_recipe import StudentRecipe, Task

PRESET = "distill-{}.toml"
DEFAULT_CONFIG = {
    "sskd": "short-backbone",
    "encoder": "short-encoder",
    "hnd": "short-bottleneck",
    "ghnd": "short-bottleneck",
    "slimmable": "short-slimmable",
    "filter": "short-filter",
}
"""Task -> preset."""


def distill_verb(
    task: Task,
    teacher: str,
    out: Path,
    config: str,
    changes: Mapping[str, Any],
    epochs: int | None,
    resume: bool,
    device: str,
    threads: int,
    processes: int,
    as_json: bool,
    console: Console,
) -> int:
    """Distil, showing progress on `console`; returns the exit code.

    `config` is a TOML file or the name of a preset, the short one of the task where it is empty; `changes` are values of the
    recipe that hold instead, by dotted key, None where it stays. With `resume` the recipe is that of the checkpoint in `out`.
    Raises UsageErrors for what does not fit, TrainingError when a loss is no number.
    """
    require_torch()
    from ..distill.checkpoint import LAST, Checkpoint
    from ..distill.student_recipe import StudentRecipe

    given = {key: value for key, value in changes.items() if value is not None}
    if "filter.recall" in given:
        given["filter.threshold"] = None  # a recipe's own would hold instead of the recall that is asked for
    if resume:
        recipe = Checkpoint.load(out).position.distillation
        if recipe.task != task:
            raise ConfigError(
                f"the distillation in {out} is {recipe.task}; resume it with 'splitrail distill {recipe.task}'"
            )
        if given or config:
            raise ConfigError("a resumed distillation has a recipe of its own; leave --config and what changes it out")
    else:
        if not teacher:
            raise ConfigError(
                "--teacher is missing; give a checkpoint, the folder of a training, a bundle, or a detector's name"
            )
        if (out / LAST).is_file():
            raise ConfigError(f"{out} has a training in it already; go on from it with --resume, or give another --out")
        path = recipe_path(config or DEFAULT_CONFIG[task])
        recipe = StudentRecipe.load(path, task, {"teacher": teacher, **given})
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    chosen = torch_device(device)
    if processes > 1 and chosen.type != "cpu":
        raise ConfigError("--processes is for a CPU; leave it out, or give --device cpu")
    result = distil(recipe, out, resume, chosen, threads or (1 if processes > 1 else 0), processes, console)
    if as_json:
        print(json_module.dumps(result, indent=1))
    else:
        judged = result["held_out"]
        goal = "AUC" if task == "filter" else "mAP"
        text = f"{out}: {goal} {_text(judged[goal])}"
        for shapes in ("masks", "keypoints"):
            if shapes in judged:
                text += f", of {shapes} {_text(judged[shapes]['mAP'])}"
        text += f" on {judged['num_images']} images held out"
        for name, found in (("", judged), ("recalibrated: ", judged.get("recalibrated", {}))):
            for width, values in found.get("widths", {}).items():
                text += f"\n  {name}width {width}: mAP {_text(values['mAP'])}, mAP@50 {_text(values['mAP@50'])}"
        if task == "filter":
            text += (
                f"; at threshold {judged['threshold']:.3f} {judged['recall']:.1%} of the frames with objects pass and "
                f"{judged['filtered']:.1%} of the empty ones do not"
            )
        console.print(text, highlight=False)
    return 0


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class OutOfTime(Exception):
    """A training, or what comes after it, that has to go on another time; says where it is."""


def distil(
    recipe: StudentRecipe,
    out: Path,
    resume: bool,
    device: Any,
    threads: int,
    processes: int,
    console: Console,
    *,
    until: float | None = None,
) -> dict[str, Any]:
    """Train by `recipe` into `out` and judge on the images held out; returns what is in `result.json`.

    Raises OutOfTime where it is not over `until` then (`time.monotonic`); it goes on with `resume`.
    """
    from ..distill.crew import crew_of

    with progress_bar(console) as bar, crew_of(processes, partial(_along, recipe, out, resume, threads)) as crew:
        trainer = _trainer(recipe, out, resume, device, threads, crew, _until(watch_on(bar), until))
        student = trainer.position.student
        assert student is not None
        console.print(f"{recipe.task}: {student.detector}, {recipe.num_epochs} epochs into {out}", highlight=False)
        return trainer.run()


def _until(watch: Watch, until: float | None) -> Watch:
    """`watch`, ended by OutOfTime at that time, if there is one."""
    from ..distill.loop import Progress

    def ended(event: Progress | dict[str, Any]) -> None:
        watch(event)
        if until is not None and time.monotonic() >= until and isinstance(event, Progress):
            raise OutOfTime(
                f"the time was up in its training, at epoch {event.epoch + 1} of {event.num_epochs}, batch {event.batch} of "
                f"{event.num_batches}"
            )

    return ended


def attach_verb(what: Path, bundle: Path, out: Path, threshold: float | None, console: Console) -> int:
    """Add a trained neural filter to a bundle. Raises CheckpointError, ConfigError, BundleError, ExportError."""
    require_torch()
    from ..distill.finished import load_filter
    from ..models.filter_export import add_filter

    net, chosen, trained = load_filter(what)
    made = add_filter(bundle, out, net, chosen if threshold is None else threshold, trained=trained)
    assert made.filter is not None
    console.print(f"{out}: {made.detector} with a filter, threshold {made.filter.threshold:.3f}", highlight=False)
    return 0


def require_torch() -> None:
    """Raises UsageError without torch."""
    try:
        import torch  # noqa: F401 -- said here, once, whatever is missing first behind it
    except ImportError as error:
        raise UsageError("distillation needs torch; add it with: pip install 'splitrail[torch,bench]'") from error


def recipe_path(config: str) -> Path:
    """A file as it is, or the preset of that name. Raises ConfigError for neither."""
    if Path(config).is_file():
        return Path(config)
    preset = CONFIGS / PRESET.format(config)
    if not preset.is_file():
        raise ConfigError(f"--config {config} is no file and no preset; presets are {', '.join(presets())}")
    return preset


def presets() -> list[str]:
    """Names of the recipes that come with the package."""
    before, after = PRESET.split("{}")
    return sorted(path.name[len(before) : -len(after)] for path in CONFIGS.glob(PRESET.format("*")))


def _along(recipe: StudentRecipe, out: Path, resume: bool, threads: int, crew: Crew) -> None:
    """What a further process of a distillation does."""
    import torch

    _trainer(recipe, out, resume, torch.device("cpu"), threads, crew, None).run()


def _trainer(
    recipe: StudentRecipe, out: Path, resume: bool, device: Any, threads: int, crew: Crew, watch: Watch | None
) -> Distillation:
    import torch

    from ..distill.checkpoint import Checkpoint
    from ..distill.filter_training import FilterTrainer
    from ..distill.slimmable_trainer import SlimmableTrainer
    from ..distill.student_trainer import StudentTrainer

    if threads:
        torch.set_num_threads(threads)
    make = {"filter": FilterTrainer, "slimmable": SlimmableTrainer}.get(recipe.task, StudentTrainer)
    checkpoint = Checkpoint.load(out) if resume else None
    return make(recipe, out, checkpoint=checkpoint, device=device, watch=watch, crew=crew)
