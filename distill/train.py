"""The training of a detector: a recipe to a folder with checkpoints, a record per epoch, and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bench.coco_pictures import CocoPictures
from ..bench.pictures import Pictures, ScenePictures
from ..models.detector import build_detector, preprocess_of
from ..models.detr import Detr
from ..models.weights import load_weights
from ..pipeline.errors import ConfigError
from .average import Average
from .background import BackgroundFirst
from .checkpoint import Checkpoint, Position
from .crew import Crew
from .evaluate import evaluate_detector
from .features import body_of
from .learner import Batch, Learner
from .loader import SampleSet, TrainingBatches
from .loop import Pace, TrainingLoop, Watch
from .recipe import Phase, RcnnRecipe, Recipe
from .schedule import make_optimiser, set_rate

_VALIDATION_SEED = 1000
"""Added to the recipe's, for scenes to validate on."""


@dataclass(frozen=True)
class _Course:
    phase: Phase
    begin: int
    """Steps before the phase."""
    num_steps: int
    """Of all phases."""


class Trainer(TrainingLoop):
    """Trains by `recipe` into the folder `out`, from the beginning or from `checkpoint`; see `TrainingLoop`.

    Raises UsageErrors for data and weights that do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        checkpoint: Checkpoint | None = None,
        device: torch.device | None = None,
        watch: Watch | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.recipe = recipe
        self._training = _training_pictures(recipe)
        self._validation = _validation_pictures(recipe, self._training.classes)
        classes = self._labelled(self._training).classes
        torch.manual_seed(recipe.seed)
        self._config = recipe.model.config(len(classes))
        self._model = build_detector(self._config)
        if recipe.model.weights:
            load_weights(self._model, recipe.model.weights, recipe.name)
        position = Position(recipe=recipe, classes=classes)
        super().__init__(Pace.of(recipe), _learner_of(recipe, self._model), position, out, device, watch, crew)
        self._optimiser = make_optimiser(self.learner, body_of(self._model), recipe.optimiser)
        ema = recipe.optimiser.ema_decay
        self._average = Average(self._model, ema) if ema else None
        self._course: _Course
        if checkpoint is not None:
            self._restore(checkpoint)
        self._make_folder()

    @property
    def detector(self) -> nn.Module:
        """What is evaluated and exported: the averaged weights where the recipe averages."""
        return self._average.model if self._average is not None else self._model

    def run(self) -> Position:
        """Train to the end. Raises TrainingError when a loss or gradient is no number, CheckpointError when the disk is full."""
        lengths = [phase.epochs * self._num_batches(phase) for phase in self.recipe.phases]
        end = 0
        for number, phase in enumerate(self.recipe.phases):
            end += phase.epochs
            if self.position.epoch >= end:
                continue
            self._course = _Course(phase, sum(lengths[:number]), sum(lengths))
            if isinstance(self._training, ScenePictures):
                self._training = replace(self._training, size=phase.size)
            pictures, preprocess = self._labelled(self._training), preprocess_of(self._config, phase.size)
            samples = SampleSet(pictures, preprocess, self.recipe.seed, self.recipe.data)
            batches = TrainingBatches(samples, phase.batch_size, self.recipe.data.workers, self._crew)
            try:
                while self.position.epoch < end:
                    self._epoch(batches)
            finally:
                batches.close()
        return self.position

    def _losses(self, batch: Batch) -> Mapping[str, Tensor]:
        if not isinstance(self.learner, Learner):
            return self.learner(batch)  # type: ignore[no-any-return]
        losses = self.learner(batch, dense_only=self._course.phase.dense_only)._asdict()
        return {"loss": losses.pop("total"), **losses}

    def _set_rate(self) -> None:
        course = self._course
        set_rate(self._optimiser, self.recipe.optimiser, self.position.step, course.num_steps, course.begin)

    def _is_due(self) -> bool:
        return super()._is_due() and not self._course.phase.dense_only

    def _judge(self) -> dict[str, Any]:
        pictures, preprocess = self._labelled(self._validation), preprocess_of(self._config, self._course.phase.size)
        accuracy = evaluate_detector(self.detector, pictures, self.recipe.data.validation_images, preprocess)
        return accuracy.to_json(pictures.classes)

    def _facts(self) -> dict[str, Any]:
        # Another size is another task, and the last one counts.
        return {"size": list(self._course.phase.size)}

    def _after_step(self) -> None:
        if self._average is not None:
            self._average.update(self._model, self.position.step)

    def _more_tensors(self) -> dict[str, Tensor]:
        if self._average is None:
            return {}
        return {f"average.{key}": value for key, value in self._average.model.state_dict().items()}

    def _restore(self, checkpoint: Checkpoint) -> None:
        if checkpoint.position.classes != self.position.classes:
            raise ConfigError(
                f"the checkpoint is of {len(checkpoint.position.classes)} classes and the data has "
                f"{len(self.position.classes)}; resume with the data that it was trained on"
            )
        self.position = checkpoint.position.model_copy(update={"recipe": self.recipe}, deep=True)
        self._load(checkpoint)

    def _load_more(self, checkpoint: Checkpoint) -> None:
        if self._average is not None:
            self._average.model.load_state_dict(checkpoint.part("average") or self._model.state_dict())

    def _labelled(self, pictures: Pictures) -> Pictures:
        return BackgroundFirst(pictures) if isinstance(self.recipe.model, RcnnRecipe) else pictures

    def _num_batches(self, phase: Phase) -> int:
        return max(1, len(self._training) // phase.batch_size)


def _learner_of(recipe: Recipe, model: nn.Module) -> nn.Module:
    if isinstance(model, Detr):
        return Learner(model, recipe.assistance.assistance())
    # These need torchvision, which a DETR does without.
    from ..models.rcnn import Rcnn
    from .rcnn_learner import RcnnLearner

    assert isinstance(model, Rcnn)
    assert isinstance(recipe.model, RcnnRecipe)
    return RcnnLearner(model, recipe.model.num_anchors, recipe.model.num_regions)


def _training_pictures(recipe: Recipe) -> Pictures:
    if recipe.data.train == "scenes":
        return ScenePictures(recipe.size, recipe.seed, "train", recipe.data.images_per_epoch)
    return CocoPictures(recipe.data.train)


def _validation_pictures(recipe: Recipe, classes: tuple[str, ...]) -> Pictures:
    if recipe.data.validation == "scenes":
        seed = recipe.seed + _VALIDATION_SEED
        pictures: Pictures = ScenePictures(recipe.size, seed, "test", recipe.data.validation_images)
        if pictures.classes != classes:
            raise ConfigError("the training images have other classes than the scenes; give a folder to validate on")
        return pictures
    return CocoPictures(recipe.data.validation, classes)
