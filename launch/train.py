"""The verb `train`: a recipe, or a checkpoint, to a trained detector."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..pipeline.errors import ConfigError, UsageError
from .config import CONFIGS

if TYPE_CHECKING:
    from ..distill.checkpoint import Checkpoint
    from ..distill.crew import Crew
    from ..distill.loop import Watch
    from ..distill.recipe import Recipe
    from ..distill.train import Trainer

PRESET = "train-{}.toml"


def train_verb(
    config: str,
    out: Path,
    resume: Path | None,
    epochs: int | None,
    data: str | None,
    validation: str | None,
    device: str,
    threads: int,
    processes: int,
    console: Console,
) -> int:
    """Train, showing progress on `console`; returns the exit code.

    `config` is a TOML file or the name of a preset; empty where `resume`, a checkpoint or the folder of a training, has the
    recipe inside. Raises UsageErrors for what does not fit, TrainingError when a loss is no number.
    """
    try:
        import torch  # noqa: F401 -- said here, once, whatever is missing first below
    except ImportError as error:
        raise UsageError("training needs torch; add it with: pip install 'splitrail[torch,bench]'") from error
    from ..distill.checkpoint import Checkpoint
    from ..distill.crew import crew_of
    from ..distill.recipe import Recipe

    if not config and resume is None:
        raise ConfigError(f"--config is missing; give a TOML file or a preset ({', '.join(presets())}), or --resume")
    checkpoint = Checkpoint.load(resume) if resume is not None else None
    if config:
        recipe = Recipe.load(recipe_path(config))
    else:
        assert checkpoint is not None
        recipe = checkpoint.position.training
    if epochs is not None:
        recipe = recipe.with_epochs(epochs)
    sources = {"train": data, "validation": validation}
    recipe = recipe.with_data({key: value for key, value in sources.items() if value is not None})
    chosen = torch_device(device)
    if processes > 1 and chosen.type != "cpu":
        raise ConfigError("--processes is for a CPU; leave it out, or give --device cpu")
    threads = threads or (1 if processes > 1 else 0)
    with progress_bar(console) as bar, crew_of(processes, partial(_train_along, recipe, out, resume, threads)) as crew:
        trainer = _trainer(recipe, out, checkpoint, chosen, threads, crew, watch_on(bar))
        num_parameters = sum(parameter.numel() for parameter in trainer.detector.parameters())
        console.print(
            f"{recipe.name}: {num_parameters:,} parameters, {recipe.num_epochs} epochs into {out}", highlight=False
        )
        trainer.run()
    return 0


def _train_along(recipe: Recipe, out: Path, resume: Path | None, threads: int, crew: Crew) -> None:
    """What a further process of a training does."""
    import torch

    from ..distill.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(resume) if resume is not None else None
    _trainer(recipe, out, checkpoint, torch.device("cpu"), threads, crew, None).run()


def _trainer(
    recipe: Recipe,
    out: Path,
    checkpoint: Checkpoint | None,
    device: Any,
    threads: int,
    crew: Crew,
    watch: Watch | None,
) -> Trainer:
    import torch

    from ..distill.train import Trainer

    if threads:
        torch.set_num_threads(threads)
    return Trainer(recipe, out, checkpoint=checkpoint, device=device, watch=watch, crew=crew)


def recipe_path(config: str) -> Path:
    """A file as it is, or the preset of that name."""
    preset = CONFIGS / PRESET.format(config)
    return preset if preset.is_file() and not Path(config).is_file() else Path(config)


def presets() -> list[str]:
    """Names of the recipes that come with the package."""
    before, after = PRESET.split("{}")
    return sorted(path.name[len(before) : -len(after)] for path in CONFIGS.glob(PRESET.format("*")))


def torch_device(name: str) -> Any:
    """A torch device; `auto` is CUDA where there is one. Raises ConfigError where it is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"torch has no device {name!r} here; give --device cpu or auto") from error
    return device


def progress_bar(console: Console) -> Progress:
    """Of a training; see `watch_on`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        console=console,
    )


def watch_on(bar: Progress) -> Watch:
    """Shows steps on `bar` and prints a line per epoch."""
    from ..distill.loop import Progress as Position

    task = bar.add_task("", total=None, loss="-")

    def watch(event: Position | dict[str, Any]) -> None:
        if isinstance(event, Position):
            description = f"epoch {event.epoch + 1}/{event.num_epochs}"
            bar.update(
                task, description=description, completed=event.batch, total=event.num_batches, loss=f"{event.loss:.4g}"
            )
            return
        text = f"epoch {event['epoch']}: loss {event['loss']:.4g}"
        if event.get("mAP") is not None:
            text += f", mAP@50 {event['mAP@50']:.3f}, mAP {event['mAP']:.3f}"
            for shapes in ("masks", "keypoints"):
                if event.get(shapes, {}).get("mAP") is not None:
                    text += f", of {shapes} {event[shapes]['mAP']:.3f}"
            text += f" on {event['num_images']} images"
        elif event.get("AUC") is not None:
            text += f", AUC {event['AUC']:.3f} on {event['num_images']} images"
        bar.console.print(text, highlight=False)

    return watch
