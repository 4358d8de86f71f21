"""The detector in a checkpoint: to evaluate it, and to export it as a bundle."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

from ..models.detr import Detr
from ..models.export import ExportOptions, Progress, write_bundle
from ..pipeline.errors import ConfigError
from ..stages.bundle import Bundle
from .checkpoint import Checkpoint, Position


class Finished(NamedTuple):
    """What a checkpoint holds for others than the training."""

    detr: Detr
    """In evaluation mode, with the averaged weights where the training averaged."""
    size: tuple[int, int]
    """Height and width of the network's input that the weights were last trained at."""
    position: Position


def load_finished(path: Path) -> Finished:
    """From a checkpoint, or the last one in the folder of a training. Raises CheckpointError."""
    checkpoint = Checkpoint.load(path)
    position = checkpoint.position
    detr = Detr(position.recipe.model.config(len(position.classes)))
    detr.load_state_dict(checkpoint.part("average") or checkpoint.part("learner.detr"))
    return Finished(detr.eval(), _size(position), position)


def export_checkpoint(
    path: Path, out: str | os.PathLike[str], options: ExportOptions | None = None, *, progress: Progress | None = None
) -> Bundle:
    """Export the detector in a checkpoint into the folder `out`; its size and classes are the training's.

    Raises CheckpointError, ConfigError where no image has been trained on yet, and as `write_bundle` does.
    """
    detr, size, position = load_finished(path)
    if position.step == 0:
        raise ConfigError(f"the training in {path} has not begun; export it later")
    options = dataclasses.replace(options or ExportOptions(), size=size, classes=position.classes)
    recipe = position.recipe
    trained = f"trained by splitrail: {position.epoch} epochs, {position.step} steps, seed {recipe.seed}"
    return write_bundle(detr, recipe.name, out, options, trained=trained, progress=progress)


def _size(position: Position) -> tuple[int, int]:
    """Of the phase that the last step was in."""
    epoch = position.epoch if position.batch else max(0, position.epoch - 1)
    end = 0
    for phase in position.recipe.phases:
        end += phase.epochs
        if epoch < end:
            return phase.size
    return position.recipe.size
