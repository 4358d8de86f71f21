"""The training of a student by its teacher's features: stage by stage, fewer encoder layers, bottlenecks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..bench.accuracy import accuracies_json
from ..models.detector import Config, config_of_detector, postprocess_of
from ..models.detr import DetrConfig
from ..models.rcnn_config import RcnnConfig
from .bottleneck_training import with_bottleneck
from .checkpoint import Checkpoint, Position, Student
from .crew import Crew
from .distillation import Distillation
from .evaluate import evaluate_kinds
from .feature_match import FeatureMatcher
from .finished import load_chosen
from .goal import KEYS, has_shapes, require_goal, require_judged, require_truth
from .learner import Batch
from .loop import Watch
from .stage_wise import Curriculum, fewer_encoder_layers, smaller_backbone
from .student_recipe import StudentRecipe
from .teacher import Teacher, load_teacher


class StudentTrainer(Distillation):
    """Trains a student by `recipe` into the folder `out`, from the beginning or from `checkpoint`; see `Distillation`.

    The checkpoint that is chosen is the one whose mAP by the recipe's goal is highest.
    """

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
        spec = postprocess_of(config_of_detector(teacher.model), 0.0)
        require_goal(recipe.goal, spec, teacher.name)
        torch.manual_seed(recipe.seed)
        curriculum = _curriculum(recipe, teacher)
        self.recipe = recipe
        self.goal = KEYS[recipe.goal]
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
        if has_shapes(spec):
            data = recipe.data
            require_truth(recipe.goal, spec, self.pictures.validation, data.validation_images, "validation")
            require_truth(recipe.goal, spec, self.pictures.held_out, data.held_out_images, "held-out")
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
        found = evaluate_kinds(self.learner.student, pictures, self.recipe.data.validation_images, self.preprocess)
        require_judged(self.recipe.goal, found, "validation")
        return accuracies_json(found, pictures.classes)

    def _facts(self) -> dict[str, Any]:
        # Before the last stage has learnt, the detector is none.
        return {"stage": self.phase + 1}

    def judge_held_out(self) -> dict[str, Any]:
        """Accuracy of the chosen checkpoint on the images that decided nothing: of boxes, and of masks or keypoints too."""
        model = self.learner.student
        model.load_state_dict(load_chosen(self.out).part("learner.student"))
        pictures = self.pictures.held_out
        found = evaluate_kinds(model, pictures, self.recipe.data.held_out_images, self.preprocess)
        return accuracies_json(found, pictures.classes)


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
