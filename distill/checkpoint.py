"""A training on disk: one safetensors file that holds everything to go on from, and nothing that is unpickled.

Tensors: `learner.NAME` the weights (of a distillation `learner.student.NAME`), `average.NAME` their average,
`optimiser.NUMBER.NAME`, `random.cpu` and `random.cuda`, which the best one goes without. Everything else is JSON in the
file's header.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import pydantic
from torch import Tensor

from ..pipeline.errors import UsageError
from ..stages.bundle import PreProcess
from .recipe import Recipe, StrictModel
from .student_recipe import StudentRecipe

LAST, BEST = "last.safetensors", "best.safetensors"
_KEY = "splitrail"


class CheckpointError(UsageError):
    """A checkpoint that cannot be written, found or read."""


class Student(StrictModel):
    """How the model of a distillation is built."""

    detector: str
    """Its name."""
    family: Literal["detr", "rcnn", "efficientdet", "filter"]
    arguments: dict[str, str | int | float | bool | tuple[int, ...] | tuple[float, ...] | None]
    """Of `DetrConfig`, `RcnnConfig` or `EfficientDetConfig`, or of `NeuralFilterNet`."""
    preprocess: PreProcess
    source: str
    """What it was distilled from, one line."""


class Position(pydantic.BaseModel):
    """Where a training is."""

    model_config = pydantic.ConfigDict(extra="forbid")

    recipe: Recipe | StudentRecipe
    classes: tuple[str, ...]
    student: Student | None = None
    """Of a distillation."""
    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the present one that are done."""
    step: int = 0
    """Optimiser steps done."""
    sums: dict[str, float] = {}
    """Losses added up over the present epoch."""
    history: list[dict[str, Any]] = []
    """A record per complete epoch."""
    best: float = -1.0
    """Highest mAP on the validation images, of a student by its goal; AUC of a neural filter."""

    @property
    def training(self) -> Recipe:
        """The recipe of a training. Raises CheckpointError where this is a distillation."""
        if isinstance(self.recipe, Recipe):
            return self.recipe
        raise CheckpointError("this checkpoint is of a distillation; go on from it with 'splitrail distill'")

    @property
    def distillation(self) -> StudentRecipe:
        """The recipe of a distillation. Raises CheckpointError where this is a training."""
        if isinstance(self.recipe, StudentRecipe):
            return self.recipe
        raise CheckpointError("this checkpoint is of a training; go on from it with 'splitrail train'")


class Checkpoint(pydantic.BaseModel):
    """What a file holds."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    position: Position
    tensors: dict[str, Tensor]

    def save(self, path: Path) -> None:
        """Write the file as a whole, or leave the one that is there. Raises CheckpointError."""
        from safetensors.torch import save

        content = save(
            {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()},
            metadata={_KEY: self.position.model_dump_json()},
        )
        partial = path.with_suffix(".partial")
        try:
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            except OSError:
                partial.unlink(missing_ok=True)
                raise
        except OSError as error:
            kept = f"the one before is kept in {path}; " if path.is_file() else ""
            raise CheckpointError(
                f"the checkpoint {path} cannot be written ({error.strerror}); {kept}make room and resume"
            ) from error

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Read a file, or the last checkpoint of a folder. Raises CheckpointError."""
        from safetensors import SafetensorError, safe_open

        file = path / LAST if path.is_dir() else path
        try:
            with safe_open(file, framework="pt") as opened:
                header = (opened.metadata() or {}).get(_KEY)
                names = opened.keys()
                tensors = {name: opened.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"there is no checkpoint at {file} ({error}); give the folder of a training, or one of its .safetensors"
            ) from error
        if header is None:
            raise CheckpointError(
                f"{file} has weights and no training to go on from; give a checkpoint of 'splitrail train'"
            )
        try:
            position = Position.model_validate(json.loads(header))
        except (ValueError, pydantic.ValidationError) as error:
            raise CheckpointError(
                f"{file} is of another version of splitrail; train again, or use that version"
            ) from error
        return Checkpoint(position=position, tensors=tensors)

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name.`, by the rest of their names."""
        return {
            key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")
        }
