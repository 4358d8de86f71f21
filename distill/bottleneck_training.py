"""Head network distillation: a bottleneck learns to give what the teacher gives at its place, or there and behind it.

HND compares layer1 only, GHND layer1 to layer4; the stem's convolution and layer1 learn, everything else is the teacher's,
frozen, and no loss looks at boxes. Source: Matsubara and Levorato 2020 ("Neural Compression and Filtering ..."), section 4.
Behind a DETR's projection it is the same: HND compares the projected features, GHND the encoder's memory as well.
"""

from __future__ import annotations

import dataclasses

from ..models.detector import build_detector, config_of_detector
from ..models.detr import DetrConfig
from ..pipeline.errors import ConfigError
from .feature_match import LAYERS, Lesson, Place, body_name
from .stage_wise import Curriculum
from .student_recipe import StudentModel
from .teacher import Teacher


def with_bottleneck(teacher: Teacher, wanted: StudentModel, *, generalised: bool) -> Curriculum:
    """The teacher with a bottleneck; `generalised` for GHND.

    Raises ConfigError: the teacher has a bottleneck, or the student is an R-CNN and it is to be behind a projection.
    """
    config = config_of_detector(teacher.model)
    if config.bottleneck:
        raise ConfigError(
            f"{teacher.name} has a bottleneck already; give the detector that it was made from as --teacher"
        )
    at = wanted.bottleneck_at
    weights = dict(zip(_places(at), wanted.layer_weights if generalised else (1.0,), strict=False))
    if isinstance(config, DetrConfig):
        student = build_detector(dataclasses.replace(config, bottleneck=wanted.bottleneck, bottleneck_at=at))
    elif at == "projection":
        raise ConfigError(f"{teacher.name} has no projection; only a DETR has, so leave --at out")
    else:
        student = build_detector(dataclasses.replace(config, bottleneck=wanted.bottleneck))
    body = body_name(student)
    inside = f"{body}.layer1." if at == "layer1" else "bottleneck."
    # What the bottleneck takes the place of stays with the teacher.
    state = {name: value for name, value in teacher.model.state_dict().items() if not name.startswith(inside)}
    missing = student.load_state_dict(state, strict=False).missing_keys
    assert all(name.startswith(inside) for name in missing), missing
    trained = (f"{body}.conv1", f"{body}.layer1") if at == "layer1" else ("bottleneck",)
    lesson = Lesson(
        trained,
        {place: weight for place, weight in weights.items() if weight},
        from_projection=at == "projection",
    )
    place = "b" if at == "layer1" else "p"
    return Curriculum(student, (lesson,), told=f"{place}{wanted.bottleneck}")


def _places(at: str) -> tuple[Place, ...]:
    return LAYERS if at == "layer1" else ("projection", "memory")
