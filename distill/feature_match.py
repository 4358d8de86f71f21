"""A student learns a teacher's features: the sum of squared differences at some places of the network.

Source: Matsubara and Levorato 2020, "Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged
Networks", equations 1 (one place) and 2 (several, with weights); Gao et al. 2019 for the same stage by stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..models.detr import Detr
from ..models.pixels import normalise
from ..models.resnet import ResNet
from .learner import Batch

Place = Literal["layer1", "layer2", "layer3", "layer4", "projection", "memory"]
"""Where features are compared: what the four layers of the ResNet give, what a DETR's encoder reads, what it gives."""
LAYERS: tuple[Place, ...] = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Lesson:
    """What a student learns in one phase."""

    trained: tuple[str, ...]
    """Names of the student's modules that learn; all else stays as it is, statistics of normalisations included."""
    weights: Mapping[Place, float]
    """Of the squared difference at each place."""
    from_projection: bool = False
    """Up to a DETR's projection student and teacher are the same, so that it is computed once."""


class FeatureMatcher(nn.Module):
    """Owns `student` and the adapters that some lessons need; the teacher is not part of its state.

    An adapter is a 1x1 convolution from the student's channels to the teacher's, where they differ; it falls away afterwards.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, adapted: Sequence[Place] = ()) -> None:
        super().__init__()
        self._teacher = (teacher.eval().requires_grad_(False),)  # a tuple, so that it is no submodule
        self.student = student
        channels = zip(LAYERS, body_of(student).num_channels, body_of(teacher).num_channels, strict=True)
        self.adapters = nn.ModuleDict(
            {place: nn.Conv2d(own, wanted, 1) for place, own, wanted in channels if place in adapted and own != wanted}
        )
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
        lesson, teacher, student = self.lesson, self.teacher, self.student
        places = tuple(lesson.weights)
        x = normalise(batch.pixels, batch.valid_size).contiguous(memory_format=torch.channels_last)
        pixel_size = (x.shape[2], x.shape[3])
        with torch.no_grad():
            if lesson.from_projection:
                assert isinstance(teacher, Detr)
                x = teacher.input_proj(teacher.backbone(x))
            wanted = features(teacher, x, batch.valid_size, pixel_size, places, projected=lesson.from_projection)
        found = features(student, x, batch.valid_size, pixel_size, places, projected=lesson.from_projection)
        losses: dict[str, Tensor] = {}
        total = torch.zeros((), device=x.device)
        for place, weight in lesson.weights.items():
            own = self.adapters[place](found[place]) if place in self.adapters else found[place]
            valid = None
            if place in ("projection", "memory"):
                # The transformer never looks at cells that are padding.
                assert isinstance(teacher, Detr)
                valid = teacher.cells(wanted[place], batch.valid_size, pixel_size).mask[:, 0] == 0
            difference, size = squared_error(own, wanted[place], valid)
            total = total + weight * difference / len(batch.pixels)
            losses[place] = (difference / size.clamp(min=1e-12)).detach()
        return {"loss": total, **losses}

    def _adapters(self) -> Iterable[nn.Module]:
        return (self.adapters[place] for place in self.lesson.weights if place in self.adapters)


def squared_error(found: Tensor, wanted: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of squared differences of float [B, C, h, w], and the sum of squares of `wanted`; in float32, over the cells that
    `valid`, bool [B, 1, h * w], names."""
    found, wanted = found.float().flatten(2), wanted.float().flatten(2)
    difference = found - wanted
    if valid is not None:
        difference, wanted = difference * valid, wanted * valid
    return difference.square().sum(), wanted.square().sum()


def features(
    model: nn.Module,
    x: Tensor,
    valid_size: Tensor,
    pixel_size: tuple[int, int],
    places: Sequence[Place],
    *,
    projected: bool = False,
) -> dict[Place, Tensor]:
    """What `model` gives at `places`; nothing behind the last of them is computed.

    `x` is normalised images float [B, 3, H, W], or with `projected` what a DETR's 1x1 projection gives, float [B, d, h, w],
    before any bottleneck there. `pixel_size` is H, W and `valid_size` int64 [B, 2] the part that is no padding.
    """
    found: dict[Place, Tensor] = {}
    if not projected:
        body = body_of(model)
        x = body.stem(x)
        for place in LAYERS:
            x = body.get_submodule(place)(x)
            if place in places:
                found[place] = x
            if len(found) == len(places):
                return found
    assert isinstance(model, Detr)
    if not projected:
        x = model.input_proj(x)
    if model.bottleneck is not None:
        x = model.bottleneck(x)
    if "projection" in places:
        found["projection"] = x
    if "memory" in places:
        found["memory"] = model.encode(x, model.cells(x, valid_size, pixel_size))
    return found


def body_of(model: nn.Module) -> ResNet:
    """The ResNet of a `Detr` or an `Rcnn`."""
    body = model.backbone if isinstance(model, Detr) else model.get_submodule(_BODY)
    assert isinstance(body, ResNet)
    return body


def body_name(model: nn.Module) -> str:
    """Where that ResNet is in the model."""
    return "backbone" if isinstance(model, Detr) else _BODY


_BODY = "backbone.body"
