"""Stage by stage: a smaller backbone for a DETR, each of its layers learning the teacher's with those before it frozen; and fewer
encoder layers, learning what all of the teacher's give.

Source: Titarsolej 2021, sections 2.3, 3.2 and 5 (future work); Gao et al. 2019, "An Embarrassingly Simple Approach for Knowledge
Distillation". How 64 channels learn 256 is not stated there: layer1 to layer3 have 1x1 adapters in training only, and layer4
learns together with a projection of its own what the teacher's projection gives.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import nn

from ..models.detr import Detr
from ..pipeline.errors import ConfigError
from .feature_match import Lesson
from .features import LAYERS, Place
from .student_recipe import StudentModel
from .teacher import Teacher


class Curriculum(NamedTuple):
    """A student and what it learns, in order."""

    student: nn.Module
    lessons: tuple[Lesson, ...]
    adapted: tuple[Place, ...] = ()
    """Places where the student's channels are adapted to the teacher's."""
    told: str = ""
    """What was done, a few words for the student's name."""


def smaller_backbone(teacher: Teacher, wanted: StudentModel) -> Curriculum:
    """A ResNet of another depth or width before the teacher's transformer, which stays as it is.

    Raises ConfigError: the teacher is no DETR or has a bottleneck, or the student's backbone would be the teacher's.
    """
    detr = _detr_of(teacher, "a backbone stage by stage")
    width = wanted.width or detr.config.width
    if (wanted.depth, width) == (detr.config.depth, detr.config.width):
        raise ConfigError(
            f"the teacher's backbone is a ResNet-{wanted.depth} of width {width} already; give --depth or --width for less"
        )
    config = dataclasses.replace(detr.config, depth=wanted.depth, width=width, norm="batch")
    student = Detr(config)
    state = detr.state_dict()
    own = student.state_dict()
    # The projection too, where C5 has as many channels: it begins as the teacher's.
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith("backbone.") and value.shape == own[name].shape
    }
    student.load_state_dict(kept, strict=False)
    modules = (
        ("backbone.conv1", "backbone.bn1", "backbone.layer1"),
        ("backbone.layer2",),
        ("backbone.layer3",),
        ("backbone.layer4", "input_proj"),
    )
    places: tuple[Place, ...] = (*LAYERS[:3], "projection")
    lessons = tuple(Lesson(trained, {place: 1.0}) for trained, place in zip(modules, places, strict=True))
    told = f"r{wanted.depth}" + (f"w{width}" if width != detr.config.width else "")
    return Curriculum(student, lessons, LAYERS[:3], told)


def fewer_encoder_layers(teacher: Teacher, wanted: StudentModel) -> Curriculum:
    """The teacher with so many of its encoder layers, evenly chosen, which learn to give what all of them give.

    Raises ConfigError: the teacher is no DETR or has a bottleneck, or has no more layers than that.
    """
    detr = _detr_of(teacher, "fewer encoder layers")
    before, after = detr.config.encoder_layers, wanted.encoder_layers
    if after >= before:
        raise ConfigError(
            f"the teacher has {before} encoder layers and {after} are no fewer; give --encoder-layers below"
        )
    # Noise that the target does not have would only be learnt away.
    student = Detr(dataclasses.replace(detr.config, encoder_layers=after, dropout=0.0))
    state = {
        name: value for name, value in detr.state_dict().items() if not name.startswith("transformer.encoder.layers.")
    }
    for number in range(after):
        begin = f"transformer.encoder.layers.{round((number + 1) * before / after) - 1}."
        state |= {
            f"transformer.encoder.layers.{number}.{name.removeprefix(begin)}": value
            for name, value in detr.state_dict().items()
            if name.startswith(begin)
        }
    student.load_state_dict(state)
    lesson = Lesson(("transformer.encoder",), {"memory": 1.0}, shared="projection")
    return Curriculum(student, (lesson,), told=f"e{after}")


def _detr_of(teacher: Teacher, what: str) -> Detr:
    if not isinstance(teacher.model, Detr) or teacher.model.config.bottleneck:
        raise ConfigError(f"{what} is learnt from a DETR without a bottleneck; {teacher.name} is none")
    return teacher.model
