"""The detector in a checkpoint: to evaluate it, to export it as a bundle, and to learn from it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..models.detector import build_detector, config_of_arguments, preprocess_of
from ..models.export import ExportOptions, Progress, write_bundle
from ..models.filter import NeuralFilterNet
from ..pipeline.errors import ConfigError
from ..stages.bundle import Bundle, PreProcess
from .checkpoint import BEST, Checkpoint, Position, Student


class Finished(NamedTuple):
    """What a checkpoint holds for others than the training."""

    model: nn.Module
    """A `Detr`, an `Rcnn` or an `EfficientDet` in evaluation mode, with the averaged weights where the training averaged; of
    several widths at width 1."""
    preprocess: PreProcess
    """Its size is that of the network's input that the weights were last trained at."""
    position: Position
    name: str


def load_finished(path: Path) -> Finished:
    """From a checkpoint, or the folder of a training (its last one) or of a distillation (its best one).

    Raises CheckpointError, and ConfigError for a neural filter, which is no detector.
    """
    checkpoint = load_chosen(path)
    position = checkpoint.position
    if position.student is not None:
        model = build_student(position.student)
        model.load_state_dict(checkpoint.part("learner.student"))
        return Finished(model.eval(), position.student.preprocess, position, position.student.detector)
    recipe = position.training
    config = recipe.model.config(len(position.classes))
    detector = build_detector(config)
    detector.load_state_dict(checkpoint.part("average") or checkpoint.part(f"learner.{recipe.model.family}"))
    return Finished(detector.eval(), preprocess_of(config, _size(position)), position, recipe.name)


def load_chosen(path: Path) -> Checkpoint:
    """A file; or of a folder the last checkpoint of a training, the best one of a distillation. Raises CheckpointError."""
    checkpoint = Checkpoint.load(path)
    best = path / BEST
    is_better = path.is_dir() and checkpoint.position.student is not None and best.is_file()
    return Checkpoint.load(best) if is_better else checkpoint


def build_student(student: Student) -> nn.Module:
    """The detector of a distillation with fresh weights. Raises ConfigError for a neural filter."""
    if student.family == "filter":
        raise ConfigError("this is a neural filter, no detector; add it to a bundle with 'splitrail distill attach'")
    return build_detector(config_of_arguments(student.arguments))


class FinishedFilter(NamedTuple):
    """A neural filter, its threshold, and where both come from in one line."""

    net: NeuralFilterNet
    threshold: float
    trained: str


def load_filter(path: Path) -> FinishedFilter:
    """From a checkpoint, or the folder of a filter's training (its best one).

    Raises CheckpointError; ConfigError: of something else, or not evaluated yet, so that it has no threshold.
    """
    checkpoint = load_chosen(path)
    position = checkpoint.position
    if position.student is None or position.student.family != "filter":
        raise ConfigError(f"{path} is no neural filter; give the folder of 'splitrail distill filter'")
    judged = position.history[-1] if position.history and not position.batch else {}
    if "threshold" not in judged:
        raise ConfigError(
            f"the filter in {path} is in the middle of its training and has no threshold; train it to the end"
        )
    num_channels = position.student.arguments["num_channels"]
    assert isinstance(num_channels, int)
    net = NeuralFilterNet(num_channels)
    net.load_state_dict(checkpoint.part("learner.net"))
    trained = f"{_told(position)}; threshold for recall {judged['recall']:.3f} on {judged['num_images']} frames"
    return FinishedFilter(net.eval(), judged["threshold"], trained)


def export_checkpoint(
    path: Path, out: str | os.PathLike[str], options: ExportOptions | None = None, *, progress: Progress | None = None
) -> Bundle:
    """Export the detector in a checkpoint into the folder `out`; its size and classes are the training's.

    Raises CheckpointError, ConfigError where no image has been trained on yet, and as `write_bundle` does.
    """
    model, preprocess, position, name = load_finished(path)
    if position.step == 0:
        raise ConfigError(f"the training in {path} has not begun; export it later")
    options = options_for(preprocess, position.classes, options)
    return write_bundle(model, name, out, options, trained=_told(position), progress=progress)


def options_for(preprocess: PreProcess, classes: tuple[str, ...], options: ExportOptions | None) -> ExportOptions:
    """`options` with the size and the classes of a detector that has been trained."""
    return dataclasses.replace(
        options or ExportOptions(),
        size=preprocess.size,
        classes=classes,
        short_side=preprocess.short_side,
        max_long_side=preprocess.max_long_side,
    )


def _told(position: Position) -> str:
    begin = "trained" if position.student is None else f"distilled ({position.student.source})"
    return f"{begin} by splitrail: {position.epoch} epochs, {position.step} steps, seed {position.recipe.seed}"


def _size(position: Position) -> tuple[int, int]:
    """Of the phase that the last step was in."""
    epoch = position.epoch if position.batch else max(0, position.epoch - 1)
    end = 0
    for phase in position.training.phases:
        end += phase.epochs
        if epoch < end:
            return phase.size
    return position.training.size
