"""Head network distillation: a bottleneck learns to give what the teacher gives at its place, or there and behind it.

HND compares layer1 only, GHND layer1 to layer4; the stem's convolution and layer1 learn, everything else is the teacher's,
frozen, and no loss looks at boxes. Source: Matsubara and Levorato 2020 ("Neural Compression and Filtering ..."), section 4.
Behind a DETR's projection it is the same: HND compares the projected features, GHND the encoder's memory as well. Of an
EfficientDet everything up to P3 learns with the compressor, HND by P3, GHND by P3, P4 and P5 (Assine et al. 2021, section 3).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from torch import nn

from ..models.detector import Config, build_detector, config_of_detector
from ..models.detr import Detr, DetrConfig
from ..models.efficientdet import NUM_ENCODER_STAGES, EfficientDet
from ..models.efficientdet_config import EfficientDetConfig
from ..models.efficientdet_weights import student_of
from ..pipeline.errors import ConfigError
from .feature_match import Lesson
from .features import LAYERS, LEVELS, Begin, Place, body_name
from .stage_wise import Curriculum
from .student_recipe import StudentModel
from .teacher import Teacher


class _Site(NamedTuple):
    """What a place of the bottleneck means for the training."""

    places: tuple[Place, ...]
    """HND compares the first, GHND all of them."""
    trained: tuple[str, ...]
    replaced: str
    """What the names of the student's own parameters begin with."""
    shared: Begin
    trunk: Begin
    letter: str


def with_bottleneck(
    teacher: Teacher, wanted: StudentModel, *, generalised: bool, slimmable: bool = False
) -> Curriculum:
    """The teacher with a bottleneck; `generalised` for GHND; `slimmable` with all of `wanted.widths`.

    Raises ConfigError: the teacher has a bottleneck, or none of the kind that is wanted.
    """
    config = config_of_detector(teacher.model)
    if config.bottleneck:
        raise ConfigError(
            f"{teacher.name} has a bottleneck already; give the detector that it was made from as --teacher"
        )
    site = _site(teacher, wanted, computation=slimmable and wanted.configurable == "computation")
    weights = dict(zip(site.places, wanted.layer_weights if generalised else (1.0,), strict=False))
    changes: dict[str, Any] = {"bottleneck": wanted.bottleneck}
    if isinstance(config, DetrConfig):
        changes["bottleneck_at"] = wanted.bottleneck_at
    if slimmable:
        changes |= {"widths": wanted.widths, "configurable": wanted.configurable}
    student = _student(teacher, config, changes, wanted, site)
    lesson = Lesson(
        site.trained,
        {place: weight for place, weight in weights.items() if weight},
        shared=site.shared,
        trunk=site.trunk,
    )
    told = f"{site.letter}{wanted.bottleneck}" + ("-slimmable" if slimmable else "")
    return Curriculum(student, (lesson,), told=told)


def _site(teacher: Teacher, wanted: StudentModel, *, computation: bool) -> _Site:
    model, at = teacher.model, wanted.bottleneck_at
    if isinstance(model, EfficientDet) and at != "p3":
        raise ConfigError(
            f"{teacher.name} is an EfficientDet, whose bottleneck lies at p3 and not at {at}; give --at p3"
        )
    if at == "p3" and not isinstance(model, EfficientDet):
        raise ConfigError(f"{teacher.name} is no EfficientDet and has no p3; leave --at out, or give --at projection")
    if at == "p3":
        blocks = tuple(f"backbone.blocks.{stage}" for stage in range(NUM_ENCODER_STAGES))
        trained = ("backbone.conv_stem", "backbone.bn1", *blocks, "compressor", "decompressor")
        # A restorer's wire is the last block's, which follows the width then.
        trunk: Begin = "images" if computation or wanted.compressor == "restorer" else "p3"
        return _Site(LEVELS, trained, "", "images", trunk, "c")
    if at == "projection":
        if not isinstance(model, Detr):
            raise ConfigError(f"{teacher.name} has no projection; only a DETR has, so leave --at out")
        return _Site(("projection", "memory"), ("bottleneck",), "bottleneck.", "projection", "projection", "p")
    body = body_name(model)
    return _Site(LAYERS, (f"{body}.conv1", f"{body}.layer1"), f"{body}.layer1.", "images", "stem", "b")


def _student(teacher: Teacher, config: Config, changes: dict[str, Any], wanted: StudentModel, site: _Site) -> nn.Module:
    if isinstance(config, EfficientDetConfig):
        assert isinstance(teacher.model, EfficientDet)
        own = dataclasses.replace(config, compressor=wanted.compressor, drop_path=wanted.drop_path, **changes)
        return student_of(teacher.model, own, fresh_encoder=wanted.fresh_encoder)
    student = build_detector(dataclasses.replace(config, **changes))
    # What the bottleneck takes the place of stays with the teacher.
    state = {name: value for name, value in teacher.model.state_dict().items() if not name.startswith(site.replaced)}
    missing = student.load_state_dict(state, strict=False).missing_keys
    assert all(name.startswith(site.replaced) for name in missing), missing
    return student
