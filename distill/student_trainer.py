"""The training of a student by its teacher's features: stage by stage, fewer encoder layers, bottlenecks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..models.detector import Config, config_of_detector
from ..models.detr import DetrConfig
from ..models.rcnn_config import RcnnConfig
from .bottleneck_training import with_bottleneck
from .checkpoint import Checkpoint, Position, Student
from .crew import Crew
from .distillation import Distillation
from .evaluate import evaluate_detector
from .feature_match import FeatureMatcher
from .finished import load_chosen
from .learner import Batch
from .loop import Watch
from .stage_wise import Curriculum, fewer_encoder_layers, smaller_backbone
from .student_recipe import StudentRecipe
from .teacher import Teacher, load_teacher


class StudentTrainer(Distillation):
    """Trains a student by `recipe` into the folder `out`, from the beginning or from `checkpoint`; see `Distillation`."""

    kind = "stage"
    learner: FeatureMatcher

    def __init__(
        self,
        recipe: StudentRecipe,
        out: Path,
        *,
        checkpoint: Checkpoint | None = None,
        device: torch.device | None = None,
        watch: Watch | None = None,
        crew: Crew | None = None,
    ) -> None:
        teacher = load_teacher(recipe.teacher, recipe.weights, recipe.size)
        torch.manual_seed(recipe.seed)
        curriculum = _curriculum(recipe, teacher)
        self.recipe = recipe
        self._lessons = curriculum.lessons
        config = config_of_detector(curriculum.student)
        student = Student(
            detector=recipe.name or f"{teacher.name}-{curriculum.told}",
            family=_family(config),
            arguments=dataclasses.asdict(config),
            preprocess=teacher.preprocess,
            source=f"{recipe.task} of {teacher.name}",
        )
        position = Position(recipe=recipe, classes=teacher.classes, student=student)
        learner = self._learner(teacher, curriculum)
        super().__init__(recipe, learner, position, teacher, out, checkpoint, device, watch, crew)
        teacher.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _learner(self, teacher: Teacher, curriculum: Curriculum) -> FeatureMatcher:
        return FeatureMatcher(teacher.model, curriculum.student, curriculum.adapted)

    def _study(self, phase: int) -> list[torch.nn.Parameter]:
        return self.learner.study(self._lessons[phase])

    def _losses(self, batch: Batch) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = self.learner(batch)
        return losses

    def _judge(self) -> dict[str, Any]:
        pictures = self.pictures.validation
        accuracy = evaluate_detector(
            self.learner.student, pictures, self.recipe.data.validation_images, self.preprocess
        )
        return accuracy.to_json(pictures.classes)

    def _facts(self) -> dict[str, Any]:
        # Before the last stage has learnt, the detector is none.
        return {"stage": self.phase + 1}

    def judge_held_out(self) -> dict[str, Any]:
        """Accuracy of the chosen checkpoint on the images that decided nothing."""
        model = self.learner.student
        model.load_state_dict(load_chosen(self.out).part("learner.student"))
        pictures = self.pictures.held_out
        accuracy = evaluate_detector(model, pictures, self.recipe.data.held_out_images, self.preprocess)
        return accuracy.to_json(pictures.classes)


def _curriculum(recipe: StudentRecipe, teacher: Teacher) -> Curriculum:
    if recipe.task == "sskd":
        return smaller_backbone(teacher, recipe.student)
    if recipe.task == "encoder":
        return fewer_encoder_layers(teacher, recipe.student)
    return with_bottleneck(
        teacher, recipe.student, generalised=recipe.task != "hnd", slimmable=recipe.task == "slimmable"
    )


def _family(config: Config) -> Literal["detr", "rcnn", "efficientdet"]:
    if isinstance(config, DetrConfig):
        return "detr"
    return "rcnn" if isinstance(config, RcnnConfig) else "efficientdet"
