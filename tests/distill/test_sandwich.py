"""The sandwich rule: every width learns as the fixed network sliced to it would, from one pass of the teacher."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitrail.bench.pictures import ScenePictures
from splitrail.distill.bottleneck_training import with_bottleneck
from splitrail.distill.feature_match import FeatureMatcher
from splitrail.distill.features import features
from splitrail.distill.learner import Batch
from splitrail.distill.loader import SampleSet, collate
from splitrail.distill.recalibration import recalibrate
from splitrail.distill.sandwich import NARROWEST, WIDEST, SandwichMatcher, draw_widths
from splitrail.distill.stage_wise import Curriculum
from splitrail.distill.student_recipe import StudentModel
from splitrail.distill.targets import Targets
from splitrail.distill.teacher import Teacher
from splitrail.models.detector import Config, for_inference, num_labels, preprocess_of, random_detector
from splitrail.models.detr import Detr, DetrConfig
from splitrail.models.efficientdet_config import EfficientDetConfig
from splitrail.models.pixels import normalise
from splitrail.models.rcnn_config import RcnnConfig
from splitrail.models.slimmable import SlimmableBatchNorm2d, set_width, sliced, widths_of
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.bundle import PreProcess

_DETR = DetrConfig(
    depth=18, width=4, num_classes=3, num_queries=5, d_model=16, heads=4, ffn=16, encoder_layers=2, decoder_layers=1
)
_RCNN = RcnnConfig(depth=18, num_classes=3, width=4, fpn=8, box_head=8)
_EFFICIENTDET = EfficientDetConfig(level=0, num_classes=3, size=(128, 128))
_WIDTHS = (0.25, 0.5, 0.75, 1.0)
_CASES = {
    "detr layer1": (_DETR, "layer1", "bandwidth", "mbconv"),
    "detr projection": (_DETR, "projection", "bandwidth", "mbconv"),
    "detr projection, encoder too": (_DETR, "projection", "computation", "mbconv"),
    "rcnn": (_RCNN, "layer1", "bandwidth", "mbconv"),
    "rcnn, encoder too": (_RCNN, "layer1", "computation", "mbconv"),
    "efficientdet": (_EFFICIENTDET, "p3", "bandwidth", "mbconv"),
    "efficientdet, encoder too": (_EFFICIENTDET, "p3", "computation", "mbconv"),
    "efficientdet, units": (_EFFICIENTDET, "p3", "bandwidth", "units"),
    "efficientdet, restorer": (_EFFICIENTDET, "p3", "bandwidth", "restorer"),
}
_CHEAP = [name for name in _CASES if not name.startswith("efficientdet")]


def _teacher(config: Config) -> Teacher:
    model = for_inference(random_detector(config, 1))
    names = tuple(f"class {label}" for label in range(num_labels(config)))
    size = (128, 128) if isinstance(config, EfficientDetConfig) else (64, 96)
    return Teacher(model, "tiny", names, preprocess_of(config, size))


def _batch(preprocess: PreProcess, num_images: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(5)
    assert preprocess.pixel_size is not None
    pixels = torch.randint(0, 256, (num_images, *preprocess.pixel_size, 3), dtype=torch.uint8, generator=generator)
    none = Targets(torch.zeros(num_images, 0, 4), torch.zeros(num_images, 0), torch.zeros(num_images, 0))
    return Batch(pixels, torch.tensor([preprocess.pixel_size] * num_images), none)


def _made(case: str, channels: int = 8) -> tuple[Teacher, Curriculum]:
    config, at, configurable, compressor = _CASES[case]
    torch.manual_seed(0)
    teacher = _teacher(config)
    wanted = StudentModel(
        bottleneck=channels,
        bottleneck_at=at,  # type: ignore[arg-type]
        widths=_WIDTHS,
        configurable=configurable,  # type: ignore[arg-type]
        compressor=compressor,  # type: ignore[arg-type]
    )
    return teacher, with_bottleneck(teacher, wanted, generalised=True, slimmable=True)


def _learn(matcher: FeatureMatcher, batch: Batch, num_steps: int) -> list[float]:
    parameters = [parameter for parameter in matcher.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, 3e-3)
    losses = []
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss = matcher(batch)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_the_narrowest_and_the_widest_are_always_drawn() -> None:
    torch.manual_seed(0)
    drawn = [draw_widths(_WIDTHS, 3) for _ in range(40)]
    assert all((widths[0], widths[-1], len(widths)) == (0.25, 1.0, 3) for widths in drawn)
    assert {widths[1] for widths in drawn} == {0.5, 0.75}
    assert draw_widths(_WIDTHS, 2) == (0.25, 1.0)
    assert draw_widths(_WIDTHS, 4) == draw_widths(_WIDTHS, 9) == _WIDTHS
    torch.manual_seed(0)
    assert [draw_widths(_WIDTHS, 3) for _ in range(40)] == drawn


@pytest.mark.parametrize("case", _CASES)
def test_the_loss_is_the_sum_of_those_of_the_fixed_networks(case: str) -> None:
    teacher, made = _made(case)
    matcher = SandwichMatcher(teacher.model, made.student, len(_WIDTHS))
    matcher.study(made.lessons[0])
    matcher.eval()
    batch = _batch(teacher.preprocess)
    losses = matcher(batch)
    alone: list[dict[str, Tensor]] = []
    for width in _WIDTHS:
        fixed = FeatureMatcher(teacher.model, sliced(made.student, width))
        fixed.study(made.lessons[0])
        fixed.eval()
        alone.append(fixed(batch))
    for name, value in losses.items():
        if name == "loss":
            wanted = sum(float(each["loss"].detach()) for each in alone)
        elif name in (NARROWEST, WIDEST):
            wanted = float(alone[0 if name == NARROWEST else -1][list(made.lessons[0].weights)[-1]])
        else:
            wanted = sum(float(each[name]) for each in alone) / len(alone)
        assert float(value.detach()) == pytest.approx(wanted, rel=1e-4), name
    assert widths_of(made.student) == _WIDTHS


@pytest.mark.parametrize("case", _CHEAP)
def test_one_backward_gives_the_gradients_of_all_widths(case: str) -> None:
    teacher, made = _made(case)
    matcher = SandwichMatcher(teacher.model, made.student, len(_WIDTHS))
    parameters = matcher.study(made.lessons[0])
    matcher.eval()
    batch = _batch(teacher.preprocess)
    matcher(batch)["loss"].backward()
    together = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    plain = FeatureMatcher(teacher.model, made.student)
    plain.study(made.lessons[0])
    plain.eval()
    for width in _WIDTHS:
        set_width(made.student, width)
        plain(batch)["loss"].backward()
    separately = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(together) == len(separately) == len(parameters)
    for a, b in zip(together, separately, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()) + 1e-9)


@pytest.mark.parametrize("case", [*_CHEAP, "efficientdet"])
def test_it_learns_and_what_is_frozen_stays(case: str) -> None:
    teacher, made = _made(case)
    lesson = made.lessons[0]
    matcher = SandwichMatcher(teacher.model, made.student, 3)
    before = {name: value.clone() for name, value in made.student.state_dict().items()}
    matcher.study(lesson)
    losses = _learn(matcher, _batch(teacher.preprocess), 3 if case == "efficientdet" else 12)
    assert losses[-1] < losses[0]
    after = made.student.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith(lesson.trained) for name in changed)


def test_only_the_widths_that_were_drawn_get_new_statistics() -> None:
    teacher, made = _made("detr projection")
    matcher = SandwichMatcher(teacher.model, made.student, 2)
    matcher.study(made.lessons[0])
    _learn(matcher, _batch(teacher.preprocess), 1)
    norms = [module for module in made.student.modules() if isinstance(module, SlimmableBatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.num_batches_tracked.tolist() == [1, 0, 0, 1]
        assert torch.equal(norm.running_mean[1], torch.zeros(norm.num_features))
        assert norm.running_mean[0].abs().sum() > 0


def test_the_teacher_is_passed_once_whatever_the_number_of_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, made = _made("detr projection")
    assert isinstance(teacher.model, Detr)
    shown: list[nn.Module] = []
    encode = Detr.encode

    def watched(self: Detr, *arguments: Any) -> Tensor:
        shown.append(self)
        return encode(self, *arguments)

    monkeypatch.setattr(Detr, "encode", watched)
    backbone = teacher.model.backbone
    calls: list[None] = []
    backbone.register_forward_hook(lambda *_: calls.append(None))
    made.student.get_submodule("backbone").register_forward_hook(lambda *_: calls.append(None))
    matcher = SandwichMatcher(teacher.model, made.student, 4)
    matcher.study(made.lessons[0])
    matcher(_batch(teacher.preprocess))
    assert shown.count(teacher.model) == 1
    assert shown.count(made.student) == 4
    assert len(calls) == 1


@pytest.mark.parametrize("case", ["detr projection", "detr layer1", "rcnn, encoder too"])
def test_recalibration_takes_the_statistics_of_the_images(case: str) -> None:
    teacher, made = _made(case)
    student, lesson = made.student.eval(), made.lessons[0]
    pictures = ScenePictures((64, 96), 5, "train", 6)
    samples = SampleSet(pictures, teacher.preprocess)
    weights = {name: value.detach().clone() for name, value in student.named_parameters()}
    recalibrate(student, lesson, samples, 6, 3)
    assert not student.training
    # Of one width by hand: an ordinary normalisation that takes the mean over the same two batches.
    width = 0.5
    fixed = sliced(student, width)
    norms = {name: module for name, module in fixed.named_modules() if isinstance(module, nn.BatchNorm2d)}
    slim = {name: module for name, module in student.named_modules() if isinstance(module, SlimmableBatchNorm2d)}
    reference = copy.deepcopy(fixed)
    for name in slim:
        norm = reference.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for begin in (0, 3):
        batch = collate([samples[0, index] for index in range(begin, begin + 3)])
        images = normalise(batch.pixels, batch.valid_size)
        with torch.no_grad():
            features(reference, images, batch.valid_size, (64, 96), (next(iter(lesson.weights)),))
    for name, module in slim.items():
        wanted = reference.get_submodule(name)
        assert isinstance(wanted, nn.BatchNorm2d)
        torch.testing.assert_close(norms[name].running_mean, wanted.running_mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norms[name].running_var, wanted.running_var, rtol=1e-3, atol=1e-4)
        assert module.momentum is not None
        assert module.num_batches_tracked.tolist() == [2] * len(_WIDTHS)
    assert all(torch.equal(value, weights[name]) for name, value in student.named_parameters())


def test_recalibration_without_widths_is_refused() -> None:
    teacher, made = _made("detr projection")
    samples = SampleSet(ScenePictures((64, 96), 5, "train", 2), teacher.preprocess)
    with pytest.raises(ConfigError, match="only a slimmable student"):
        recalibrate(sliced(made.student, 1.0), made.lessons[0], samples, 2, 2)


def test_recalibration_takes_as_many_images_as_there_are() -> None:
    teacher, made = _made("detr projection")
    recalibrate(
        made.student, made.lessons[0], SampleSet(ScenePictures((64, 96), 5, "train", 2), teacher.preprocess), 9, 3
    )
    norms = [module for module in made.student.modules() if isinstance(module, SlimmableBatchNorm2d)]
    assert {tuple(norm.num_batches_tracked.tolist()) for norm in norms} == {(1,) * len(_WIDTHS)}


@pytest.mark.parametrize(
    ("config", "at", "message"),
    [
        (_DETR, "p3", "is no EfficientDet and has no p3"),
        (_RCNN, "projection", "only a DETR has"),
        (_EFFICIENTDET, "layer1", "lies at p3 and not at layer1; give --at p3"),
    ],
)
def test_a_place_that_the_teacher_has_not_is_refused(config: Config, at: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_bottleneck(_teacher(config), StudentModel(bottleneck=4, bottleneck_at=at), generalised=True)


def test_a_fixed_efficientdet_learns_by_its_levels() -> None:
    teacher = _teacher(_EFFICIENTDET)
    wanted = StudentModel(bottleneck=4, bottleneck_at="p3", drop_path=0.2)
    alone = with_bottleneck(teacher, wanted, generalised=False).lessons[0]
    made = with_bottleneck(teacher, wanted, generalised=True)
    assert (tuple(alone.weights), tuple(made.lessons[0].weights)) == (("p3",), ("p3", "p4", "p5"))
    assert made.told == "c4"
    matcher = FeatureMatcher(teacher.model, made.student)
    matcher.study(made.lessons[0])
    losses = _learn(matcher, _batch(teacher.preprocess, 1), 2)
    assert losses[1] < losses[0]
