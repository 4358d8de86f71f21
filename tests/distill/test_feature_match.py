from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from splitrail.distill.bottleneck_training import with_bottleneck
from splitrail.distill.feature_match import FeatureMatcher, squared_error
from splitrail.distill.features import body_of, features
from splitrail.distill.learner import Batch
from splitrail.distill.stage_wise import Curriculum, fewer_encoder_layers, smaller_backbone
from splitrail.distill.student_recipe import StudentModel
from splitrail.distill.targets import Targets
from splitrail.distill.teacher import Teacher
from splitrail.models.detector import for_inference, preprocess_of, random_detector
from splitrail.models.detr import Detr, DetrConfig
from splitrail.models.rcnn_config import RcnnConfig
from splitrail.models.resnet import FrozenBatchNorm2d
from splitrail.pipeline.errors import ConfigError

_DETR = DetrConfig(
    depth=50, width=4, num_classes=3, num_queries=5, d_model=16, heads=4, ffn=16, encoder_layers=3, decoder_layers=1
)
_RCNN = RcnnConfig(depth=18, num_classes=3, width=4, fpn=8, box_head=8)
_SIZE = (64, 96)


def _teacher(config: DetrConfig | RcnnConfig) -> Teacher:
    model = for_inference(random_detector(config, 1))
    return Teacher(model, "tiny", ("a", "b", "c"), preprocess_of(config, _SIZE))


def _batch(num_images: int = 2, valid: tuple[int, int] = _SIZE) -> Batch:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (num_images, *_SIZE, 3), dtype=torch.uint8, generator=generator)
    none = Targets(torch.zeros(num_images, 0, 4), torch.zeros(num_images, 0), torch.zeros(num_images, 0))
    return Batch(pixels, torch.tensor([valid] * num_images), none)


def _learn(matcher: FeatureMatcher, parameters: list[nn.Parameter], num_steps: int = 1) -> list[float]:
    optimiser = torch.optim.Adam(parameters, 1e-2)
    losses = []
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss = matcher(_batch())["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("generalised", [False, True], ids=["hnd", "ghnd"])
@pytest.mark.parametrize("config", [_DETR, _RCNN], ids=["detr", "rcnn"])
def test_only_the_stems_convolution_and_layer1_learn(config: DetrConfig | RcnnConfig, generalised: bool) -> None:
    torch.manual_seed(0)
    teacher = _teacher(config)
    made = with_bottleneck(teacher, StudentModel(bottleneck=3), generalised=generalised)
    matcher = FeatureMatcher(teacher.model, made.student)
    body = "backbone" if config is _DETR else "backbone.body"
    student, of_teacher = _copy(made.student), _copy(teacher.model)
    # What is not replaced begins as the teacher's, and its normalisations stay frozen.
    assert all(torch.equal(value, of_teacher[name]) for name, value in student.items() if ".layer1." not in name)
    parameters = matcher.study(made.lessons[0])
    _learn(matcher, parameters)
    changed = _changed(student, _copy(made.student))
    assert all(name.startswith((f"{body}.conv1.", f"{body}.layer1.")) for name in changed)
    assert f"{body}.conv1.weight" in changed
    own = {name for name in student if ".layer1." in name}
    assert own <= changed  # the bottleneck's weights, and the statistics of its normalisations
    assert _changed(of_teacher, _copy(teacher.model)) == set()


def test_the_generalised_loss_looks_behind_layer1() -> None:
    torch.manual_seed(0)
    teacher = _teacher(_RCNN)
    batch = _batch()
    losses = {}
    for generalised in (False, True):
        torch.manual_seed(1)
        made = with_bottleneck(teacher, StudentModel(bottleneck=3, layer_weights=(1, 0, 2)), generalised=generalised)
        matcher = FeatureMatcher(teacher.model, made.student)
        matcher.study(made.lessons[0])
        losses[generalised] = matcher(batch)
    assert losses[False].keys() == {"loss", "layer1"}
    assert losses[True].keys() == {"loss", "layer1", "layer3"}
    from splitrail.models.pixels import normalise

    images = normalise(batch.pixels, batch.valid_size)
    wanted = features(teacher.model, images, batch.valid_size, _SIZE, ("layer1", "layer3"))
    in_layer1 = float(losses[True]["layer1"]) * float(wanted["layer1"].square().sum())
    in_layer3 = float(losses[True]["layer3"]) * float(wanted["layer3"].square().sum())
    assert float(losses[False]["loss"].detach()) == pytest.approx(in_layer1 / 2, rel=1e-4)
    assert float(losses[True]["loss"].detach()) == pytest.approx((in_layer1 + 2 * in_layer3) / 2, rel=1e-4)


def test_squared_error_by_hand() -> None:
    found = torch.tensor([[[[1.0, 2.0], [0.0, 5.0]]]])
    wanted = torch.tensor([[[[1.0, 0.0], [3.0, 1.0]]]])
    difference, size = squared_error(found, wanted)
    assert (float(difference), float(size)) == (4 + 9 + 16, 1 + 9 + 1)
    valid = torch.tensor([[[True, True, True, False]]])
    difference, size = squared_error(found, wanted, valid)
    assert (float(difference), float(size)) == (4 + 9, 1 + 9)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    teacher = _teacher(_DETR)
    matcher = FeatureMatcher(teacher.model, for_inference(teacher.model))
    made = fewer_encoder_layers(teacher, StudentModel(encoder_layers=2))
    matcher.study(dataclasses.replace(made.lessons[0], weights={"layer2": 1.0, "memory": 1.0}, shared="images"))
    matcher.eval()  # no dropout
    assert float(matcher(_batch())["loss"].detach()) == 0


@pytest.mark.parametrize("at", ["hnd", "ghnd", "encoder"])
def test_what_begins_at_the_projection_is_computed_once_and_the_same(at: str) -> None:
    torch.manual_seed(0)
    teacher = _teacher(_DETR)
    if at == "encoder":
        made = fewer_encoder_layers(teacher, StudentModel(encoder_layers=1))
    else:
        wanted = StudentModel(bottleneck=8, bottleneck_at="projection")
        made = with_bottleneck(teacher, wanted, generalised=at == "ghnd")
    (lesson,) = made.lessons
    assert (
        tuple(lesson.weights) == {"hnd": ("projection",), "ghnd": ("projection", "memory"), "encoder": ("memory",)}[at]
    )
    matcher = FeatureMatcher(teacher.model, made.student)
    before = _copy(made.student)
    parameters = matcher.study(lesson)
    matcher.eval()
    batch = _batch(valid=(64, 70))
    short = matcher(batch)
    matcher.study(dataclasses.replace(lesson, shared="images"))
    matcher.eval()
    for name, value in matcher(batch).items():
        assert float(value.detach()) == pytest.approx(float(short[name].detach()), rel=1e-4)
    matcher.study(lesson)
    _learn(matcher, parameters)
    changed = _changed(before, _copy(made.student))
    assert changed
    assert {name.split(".")[0] for name in changed} == ({"transformer"} if at == "encoder" else {"bottleneck"})
    assert not any("decoder." in name for name in changed if at == "encoder")


def test_padding_is_not_compared_where_the_transformer_never_looks() -> None:
    teacher = _teacher(_DETR)
    made = fewer_encoder_layers(teacher, StudentModel(encoder_layers=1))
    matcher = FeatureMatcher(teacher.model, made.student)
    matcher.study(made.lessons[0])
    matcher.eval()
    with torch.no_grad():
        whole, part = float(matcher(_batch())["loss"]), float(matcher(_batch(valid=(32, 32)))["loss"])
    assert 0 < part < whole


def test_each_stage_learns_alone_and_the_transformer_never() -> None:
    torch.manual_seed(0)
    teacher = _teacher(_DETR)
    made = smaller_backbone(teacher, StudentModel(depth=18))
    assert isinstance(made.student, Detr)
    # 4, 8, 16 and 32 channels learn 16, 32 and 64 through adapters, and the last stage its own projection of 32 to 16.
    matcher = FeatureMatcher(teacher.model, made.student, made.adapted)
    assert {name: tuple(each.weight.shape[:2]) for name, each in matcher.adapters.items()} == {
        "layer1": (16, 4),
        "layer2": (32, 8),
        "layer3": (64, 16),
    }
    assert tuple(made.student.input_proj.weight.shape[:2]) == (16, 32)
    stages = (
        ("backbone.conv1.", "backbone.bn1.", "backbone.layer1."),
        ("backbone.layer2.",),
        ("backbone.layer3.",),
        ("backbone.layer4.", "input_proj."),
    )
    for number, (lesson, prefixes) in enumerate(zip(made.lessons, stages, strict=True)):
        before, adapters = _copy(made.student), _copy(matcher.adapters)
        parameters = matcher.study(lesson)
        _learn(matcher, parameters)
        changed = _changed(before, _copy(made.student))
        own = {name for name in before if name.startswith(prefixes)}
        assert changed == own, number
        trained_adapters = {name.split(".")[0] for name in _changed(adapters, _copy(matcher.adapters))}
        assert trained_adapters == ({f"layer{number + 1}"} if number < 3 else set())
    kept = _copy(teacher.model)
    student = made.student.state_dict()
    assert all(torch.equal(student[name], kept[name]) for name in kept if name.startswith(("transformer.", "class_")))


def test_a_student_comes_closer_to_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = _teacher(_RCNN)
    made = with_bottleneck(teacher, StudentModel(bottleneck=3), generalised=True)
    matcher = FeatureMatcher(teacher.model, made.student)
    losses = _learn(matcher, matcher.study(made.lessons[0]), num_steps=40)
    assert losses[-1] < 0.85 * losses[0]


def test_fewer_layers_begin_as_layers_of_the_teacher() -> None:
    teacher = _teacher(dataclasses.replace(_DETR, encoder_layers=6))
    made = fewer_encoder_layers(teacher, StudentModel(encoder_layers=2))
    own, wanted = made.student.state_dict(), teacher.model.state_dict()
    for number, chosen in ((0, 2), (1, 5)):
        name = "transformer.encoder.layers.{}.linear1.weight"
        assert torch.equal(own[name.format(number)], wanted[name.format(chosen)])


def test_normalisation_of_a_bottleneck_learns_and_all_others_are_frozen() -> None:
    teacher = _teacher(_RCNN)
    made = with_bottleneck(teacher, StudentModel(bottleneck=3), generalised=True)
    kinds = {
        (isinstance(module, FrozenBatchNorm2d), ".layer1." in name)
        for name, module in made.student.named_modules()
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d)
    }
    assert kinds == {(True, False), (False, True)}
    assert body_of(made.student).layer1.num_channels == 3


def _of(make: Any, *arguments: Any, **keywords: Any) -> Curriculum:
    made: Curriculum = make(*arguments, **keywords)
    return made


def test_what_cannot_be_learnt_from_that_teacher_is_refused() -> None:
    detr, rcnn = _teacher(_DETR), _teacher(_RCNN)
    squeezed = _teacher(dataclasses.replace(_DETR, bottleneck=3))
    same = StudentModel(depth=50)
    at_projection = StudentModel(bottleneck_at="projection")
    for message, make, arguments, keywords in (
        ("already", smaller_backbone, (detr, same), {}),
        ("a DETR without a bottleneck", smaller_backbone, (rcnn, StudentModel()), {}),
        ("a DETR without a bottleneck", fewer_encoder_layers, (squeezed, StudentModel()), {}),
        ("3 encoder layers and 3 are no fewer", fewer_encoder_layers, (detr, StudentModel(encoder_layers=3)), {}),
        ("has a bottleneck already", with_bottleneck, (squeezed, StudentModel()), {"generalised": True}),
        ("has no projection", with_bottleneck, (rcnn, at_projection), {"generalised": False}),
    ):
        with pytest.raises(ConfigError, match=message):
            _of(make, *arguments, **keywords)
