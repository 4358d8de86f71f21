"""A student learns a teacher's features: the sum of squared differences at some places of the network.

Source: Matsubara and Levorato 2020, "Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged
Networks", equations 1 (one place) and 2 (several, with weights); Gao et al. 2019 for the same stage by stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.detr import Detr
from ..models.pixels import normalise
from .features import LAYERS, Begin, Place, advance, body_of, features
from .learner import Batch


@dataclass(frozen=True)
class Lesson:
    """What a student learns in one phase."""

    trained: tuple[str, ...]
    """Names of the student's modules that learn; all else stays as it is, statistics of normalisations included."""
    weights: Mapping[Place, float]
    """Of the squared difference at each place."""
    shared: Begin = "images"
    """Up to there student and teacher are the same, so that it is computed once."""
    trunk: Begin = "images"
    """Up to there, not before `shared`, nothing of the student follows its width."""


class FeatureMatcher(nn.Module):
    """Owns `student` and the adapters that some lessons need; the teacher is not part of its state.

    An adapter is a 1x1 convolution from the student's channels to the teacher's, where they differ; it falls away afterwards.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, adapted: Sequence[Place] = ()) -> None:
        super().__init__()
        self._teacher = (teacher.eval().requires_grad_(False),)  # a tuple, so that it is no submodule
        self.student = student
        self.adapters = nn.ModuleDict()
        if adapted:
            for place, own, wanted in zip(
                LAYERS, body_of(student).num_channels, body_of(teacher).num_channels, strict=True
            ):
                if place in adapted and own != wanted:
                    self.adapters[place] = nn.Conv2d(own, wanted, 1)
        self.lesson: Lesson

    @property
    def teacher(self) -> nn.Module:
        """In evaluation mode, frozen."""
        return self._teacher[0]

    def study(self, lesson: Lesson) -> list[nn.Parameter]:
        """Turn to `lesson`; returns the parameters that learn."""
        self.lesson = lesson
        self.requires_grad_(False)
        learning = [*(self.student.get_submodule(name) for name in lesson.trained), *self._adapters()]
        for module in learning:
            module.requires_grad_(True)
        self.train()
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> FeatureMatcher:
        """Training mode for what learns; what is frozen stays in evaluation mode, as it would change otherwise."""
        super().train(False)
        for name in self.lesson.trained if mode else ():
            self.student.get_submodule(name).train()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: "loss", the weighted sum over the places of the squared differences, summed over the elements of an image and
        averaged over the images; and per place the difference relative to the teacher's features (0 is perfect, 1 is what
        zeros reach)."""
        x, wanted = self.wanted(batch)
        found = features(
            self.student, x, batch.valid_size, pixel_size_of(batch), tuple(wanted), begin=self.lesson.shared
        )
        return self.compare(found, wanted, batch)

    @torch.no_grad()
    def wanted(self, batch: Batch) -> tuple[Tensor, dict[Place, Tensor]]:
        """What student and teacher share (`Lesson.shared`), and the teacher's features at every place."""
        shared = self.lesson.shared
        x = normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
        x = advance(self.teacher, x, shared)
        places = tuple(self.lesson.weights)
        return x, features(self.teacher, x, batch.valid_size, pixel_size_of(batch), places, begin=shared)

    def compare(self, found: Mapping[Place, Tensor], wanted: Mapping[Place, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The scalars of `forward` from the features of student and teacher."""
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.pixels.device)
        for place, weight in self.lesson.weights.items():
            own = self.adapters[place](found[place]) if place in self.adapters else found[place]
            valid = None
            if place in ("projection", "memory"):
                # The transformer never looks at cells that are padding.
                assert isinstance(self.teacher, Detr)
                cells = self.teacher.cells(wanted[place], batch.valid_size, pixel_size_of(batch))
                valid = cells.mask[:, 0] == 0
            difference, size = squared_error(own, wanted[place], valid)
            total = total + weight * difference / len(batch.pixels)
            losses[place] = (difference / size.clamp(min=1e-12)).detach()
        return {"loss": total, **losses}

    def _adapters(self) -> Iterable[nn.Module]:
        return (self.adapters[place] for place in self.lesson.weights if place in self.adapters)


def pixel_size_of(batch: Batch) -> tuple[int, int]:
    """Height and width of a batch's images, padding included."""
    return batch.pixels.shape[1], batch.pixels.shape[2]


def squared_error(found: Tensor, wanted: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of squared differences of float [B, C, h, w], and the sum of squares of `wanted`; in float32, over the cells that
    `valid`, bool [B, 1, h * w], names."""
    found, wanted = found.float().flatten(2), wanted.float().flatten(2)
    difference = found - wanted
    if valid is not None:
        difference, wanted = difference * valid, wanted * valid
    return difference.square().sum(), wanted.square().sum()
