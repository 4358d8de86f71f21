"""The training of a neural filter on the output of a frozen detector's stem.

Source: Matsubara and Levorato 2020, "Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged
Networks", section 5: cross entropy, SGD at 1e-3 with momentum 0.9 and weight decay 1e-4, 30 epochs in batches of 2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bench.pictures import Pictures
from ..models.efficientdet import EfficientDet
from ..models.filter import NeuralFilterNet
from ..models.pixels import normalise
from ..pipeline.errors import ConfigError
from ..stages.bundle import PreProcess
from .checkpoint import Checkpoint, Position, Student
from .crew import Crew
from .distillation import Distillation
from .features import body_of
from .finished import load_chosen
from .learner import Batch
from .loader import SampleSet, collate
from .loop import Watch
from .roc import draw_roc, roc_curve, threshold_for_recall
from .student_recipe import StudentRecipe
from .teacher import load_teacher

ROC = "roc.png"
"""Of the images held out."""


class FilterLearner(nn.Module):
    """Owns `net`; the detector, whose stem it reads, is not part of its state."""

    def __init__(self, detector: nn.Module, net: NeuralFilterNet) -> None:
        super().__init__()
        self._detector = (detector.eval().requires_grad_(False),)  # a tuple, so that it is no submodule
        self.net = net

    def stem(self, batch: Batch) -> Tensor:
        """L0 of a batch, float [B, num_channels, h, w]."""
        with torch.no_grad():
            images = normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
            return body_of(self._detector[0]).stem(images)

    def forward(self, batch: Batch) -> Tensor:
        """Cross entropy of a batch, a scalar: whether an image has any object."""
        return F.cross_entropy(self.net(self.stem(batch)).float(), batch.targets.used.any(dim=1).long())


class FilterTrainer(Distillation):
    """Trains a filter for the detector of `recipe` into the folder `out`; see `Distillation`.

    Each evaluation gives the area under the ROC curve of the validation images and the threshold that they ask for.
    """

    goal, kind = "AUC", "task"
    learner: FilterLearner

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
        if recipe.data.train == "scenes" and recipe.data.empty in (0, 1):
            raise ConfigError(f"a filter needs images with and without objects; data.empty is {recipe.data.empty:g}")
        teacher = load_teacher(recipe.teacher, recipe.weights, recipe.size)
        if isinstance(teacher.model, EfficientDet):
            raise ConfigError(
                f"a filter reads the stem of a ResNet, and {teacher.name} has none; give a DETR or an R-CNN as --teacher"
            )
        torch.manual_seed(recipe.seed)
        num_channels = body_of(teacher.model).conv1.out_channels
        student = Student(
            detector=recipe.name or f"{teacher.name}-filter",
            family="filter",
            arguments={"num_channels": num_channels},
            preprocess=teacher.preprocess,
            source=f"filter for {teacher.name}",
        )
        position = Position(recipe=recipe, classes=teacher.classes, student=student)
        learner = FilterLearner(teacher.model, NeuralFilterNet(num_channels))
        super().__init__(recipe, learner, position, teacher, out, checkpoint, device, watch, crew)
        teacher.model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        data = recipe.data
        if data.train != "scenes":  # of scenes `data.empty` says it, above
            # A part of a folder is another one in each epoch.
            num_epochs = recipe.num_epochs if data.part else 1
            _require_both_kinds("training", self.pictures.training, len(self.pictures.training), num_epochs)
        _require_both_kinds("validation", self.pictures.validation, data.validation_images)
        _require_both_kinds("held-out", self.pictures.held_out, data.held_out_images)

    def _study(self, phase: int) -> list[nn.Parameter]:
        return list(self.learner.net.parameters())

    def _losses(self, batch: Batch) -> Mapping[str, Tensor]:
        loss: Tensor = self.learner(batch)
        return {"loss": loss, "entropy": loss.detach()}

    def _facts(self) -> dict[str, Any]:
        return {"task": self.recipe.task}

    def _judge(self) -> dict[str, Any]:
        wanted = self.recipe.filter
        scores, positives = objectness_of(
            self.learner, self.pictures.validation, self.recipe.data.validation_images, self.preprocess
        )
        threshold = wanted.threshold
        if threshold is None:
            threshold = threshold_for_recall(scores, positives, wanted.recall)
        return {"threshold": threshold, **judged(scores, positives, threshold)}

    def judge_held_out(self) -> dict[str, Any]:
        """Of the chosen checkpoint, at the threshold that the validation images gave."""
        chosen = load_chosen(self.out)
        self.learner.net.load_state_dict(chosen.part("learner.net"))
        threshold = float(chosen.position.history[-1]["threshold"])
        scores, positives = objectness_of(
            self.learner, self.pictures.held_out, self.recipe.data.held_out_images, self.preprocess
        )
        if importlib.util.find_spec("matplotlib") is not None:
            draw_roc(roc_curve(scores, positives), threshold, self.out / ROC)
        return {"threshold": threshold, **judged(scores, positives, threshold)}


def _require_both_kinds(what: str, pictures: Pictures, num_images: int, num_epochs: int = 1) -> None:
    """Raises ConfigError where the first pictures all have an object, or none has: said before the training, not after it.

    `what` names the pictures. Mostly a few of them are looked at; all of them only where it raises.
    """
    kinds: set[bool] = set()
    for epoch in range(num_epochs):
        for index in range(min(num_images, len(pictures))):
            kinds.add(len(pictures.picture(index, epoch).labels) > 0)
            if len(kinds) > 1:
                return
    told = "learn from them" if what == "training" else "be judged by them"
    raise ConfigError(
        f"the {what} images are all {'with' if True in kinds else 'without'} objects, so that a filter cannot {told}; "
        "give images of both kinds"
    )


@torch.inference_mode()
def objectness_of(
    learner: FilterLearner, pictures: Pictures, num_images: int, preprocess: PreProcess
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Of the first `num_images` pictures: the filter's scores [N] in [0, 1], and whether they have an object, bool [N]."""
    samples = SampleSet(pictures, preprocess)
    device = learner.net.head.weight.device
    was_training = learner.training
    learner.eval()
    scores, positives = [], []
    for index in range(min(num_images, len(pictures))):
        batch = collate([samples[0, index]]).to(device)
        scores.append(float(learner.net.objectness(learner.stem(batch)).float()))
        positives.append(bool(batch.targets.used.any()))
    learner.train(was_training)
    return np.array(scores), np.array(positives)


def judged(
    scores: npt.NDArray[np.float64], positives: npt.NDArray[np.bool_], threshold: float
) -> dict[str, float | int]:
    """Area under the ROC curve; shares, at `threshold`, of the frames with objects that pass and of the empty ones that do
    not. Raises ConfigError as `roc_curve`."""
    passed = scores >= threshold
    return {
        "num_images": len(scores),
        "num_empty": int((~positives).sum()),
        "AUC": round(roc_curve(scores, positives).auc, 5),
        "recall": round(float(passed[positives].mean()), 5),
        "filtered": round(float((~passed)[~positives].mean()), 5),
    }
