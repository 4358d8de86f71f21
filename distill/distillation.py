"""What every distillation does: the phases of a recipe, an evaluation that chooses a checkpoint, a last one that does not."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.detector import config_of_detector, postprocess_of
from ..pipeline.errors import ConfigError, UsageError
from .checkpoint import Checkpoint, Position
from .crew import Crew
from .goal import has_shapes
from .loader import SampleSet, TrainingBatches
from .loop import Pace, TrainingLoop, Watch
from .student_pictures import picture_sets
from .student_recipe import StudentOptimiser, StudentRecipe
from .teacher import Teacher

RESULT = "result.json"


class Distillation(TrainingLoop):
    """A `TrainingLoop` by a `StudentRecipe`; `run` leaves `result.json` too, the accuracy on the images held out.

    Raises UsageErrors for a teacher, data and sizes that do not fit.
    """

    def __init__(
        self,
        recipe: StudentRecipe,
        learner: nn.Module,
        position: Position,
        teacher: Teacher,
        out: Path,
        checkpoint: Checkpoint | None,
        device: torch.device | None,
        watch: Watch | None,
        crew: Crew | None,
    ) -> None:
        self.recipe = recipe
        self.phase = 0
        """Which of the recipe's numbers of epochs it is at."""
        self.preprocess = teacher.preprocess
        shapes = has_shapes(postprocess_of(config_of_detector(teacher.model), 0.0))
        self.pictures = picture_sets(recipe, teacher.classes, teacher.preprocess.size, with_shapes=shapes)
        super().__init__(Pace.of(recipe), learner, position, out, device, watch, crew)
        self._begin_phase()
        if checkpoint is not None:
            self._restore(checkpoint)
        self._make_folder()

    @abstractmethod
    def _study(self, phase: int) -> list[nn.Parameter]:
        """Turn to that phase; returns the parameters that learn."""

    @abstractmethod
    def judge_held_out(self) -> dict[str, Any]:
        """How right the chosen checkpoint is on the images held out, as JSON values."""

    def run(self) -> dict[str, Any]:
        """Train to the end, then judge on the images held out: once, when nothing is left to decide.

        Returns what it wrote to `result.json`; of several processes only the first one has something to return. Raises
        TrainingError when a loss or gradient is no number, CheckpointError when the disk is full.
        """
        samples = SampleSet(self.pictures.training, self.preprocess, self.recipe.seed, self.recipe.data)
        batches = TrainingBatches(samples, self.recipe.batch_size, self.recipe.data.workers, self._crew)
        self._num_batches = batches.num_batches
        try:
            while self.position.epoch < self.recipe.num_epochs:
                if self.position.epoch == self._begin_of(self.phase + 1):
                    self.phase += 1
                    self._begin_phase()
                self._epoch(batches)
        finally:
            batches.close()
        if not self._crew.leads:
            return {}
        result = {
            "task": self.recipe.task,
            "seed": self.recipe.seed,
            "teacher": self.recipe.teacher,
            "student": self.position.student.detector if self.position.student else "",
            "steps": self.position.step,
            "goal": self.goal,
            "validation": self.position.best if self.position.best >= 0 else None,
            "held_out": self.judge_held_out(),
        }
        _write(self.out / RESULT, result)
        return result

    def _is_due(self) -> bool:
        # Before the last phase what is judged is not finished: a detector whose later layers have learnt nothing.
        return super()._is_due() and self.phase == len(self.recipe.epochs) - 1

    def _set_rate(self) -> None:
        done = self.position.step - self._begin_of(self.phase) * self._num_batches
        factor = self.recipe.optimiser.factor(done, self._num_batches, self.recipe.epochs[self.phase])
        for group in self._optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.lr * factor

    def _begin_of(self, phase: int) -> int:
        """Epochs before that phase."""
        return sum(self.recipe.epochs[:phase])

    def _begin_phase(self) -> None:
        self._optimiser = _optimiser(self._study(self.phase), self.recipe.optimiser)

    def _restore(self, checkpoint: Checkpoint) -> None:
        before = checkpoint.position.distillation
        if (before.task, before.student) != (self.recipe.task, self.recipe.student):
            raise ConfigError(
                f"the checkpoint is of another distillation ({before.task}); resume with the recipe that it has inside"
            )
        self.position = checkpoint.position.model_copy(update={"recipe": self.recipe}, deep=True)
        position = self.position
        last = len(self.recipe.epochs) - 1
        self.phase = next((n for n in range(last) if position.epoch < self._begin_of(n + 1)), last)
        self._begin_phase()
        # At the begin of a phase the optimiser is new, as in an unbroken training.
        is_within = position.batch > 0 or position.epoch > self._begin_of(self.phase)
        self._load(checkpoint, with_optimiser=is_within)


def _optimiser(parameters: list[nn.Parameter], recipe: StudentOptimiser) -> torch.optim.Optimizer:
    if recipe.method == "sgd":
        return torch.optim.SGD(parameters, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    make = torch.optim.Adam if recipe.method == "adam" else torch.optim.AdamW
    return make(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def _write(path: Path, result: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); make room and resume") from error
