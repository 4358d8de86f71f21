"""Every integer that follows from the architectures of R-CNNs and bottlenecks alone.

Conventions: parameters without frozen normalisation but with a bottleneck's own, trained one; MACs are multiplications with
their additions in convolutions and linear layers; elements are what travels behind a module, every needed branch included,
relative to 3 x H x W before padding. The expected figures are closed formulas of the published architectures.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitrail.models.bottleneck import LAYER1_CHANNELS, ProjectionBottleneck, StudentLayer1
from splitrail.models.census import Census, ModuleRow, census
from splitrail.models.counts import num_macs, num_parameters, wire_shapes
from splitrail.models.cut import cuts_of, split
from splitrail.models.detr import Detr
from splitrail.models.names import DETECTORS, RCNNS, model_config
from splitrail.pipeline.errors import ConfigError

SQUARE = (800, 800)
DEPTHS = (18, 34, 50, 101)


def counted(detector: str, size: tuple[int, int] = SQUARE, **options: object) -> Census:
    return census(model_config(detector, **options), size)  # type: ignore[arg-type]


def row(of: Census, name: str) -> ModuleRow:
    return next(each for each in of.rows if each.name == name)


def total(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("channels", "encoder"), [(3, 148_992), (6, 149_760), (9, 150_528), (12, 151_296), (15, 152_064)]
)
def test_parameters_of_the_student_encoder(channels: int, encoder: int) -> None:
    assert channels in LAYER1_CHANNELS
    assert total(StudentLayer1(channels, 256).encoder) == encoder
    assert row(counted("faster-rcnn-resnet50", bottleneck=channels), "layer1.encoder").num_parameters == encoder


def test_parameters_of_the_whole_student() -> None:
    assert total(StudentLayer1(3, 256)) == 577_158
    # Behind a small ResNet the last two convolutions are narrower.
    wide, narrow = (StudentLayer1(3, num_out).decoder for num_out in (256, 64))
    assert [m.out_channels for m in narrow if isinstance(m, nn.Conv2d)] == [64, 128, 64, 64]
    assert [m.out_channels for m in wide if isinstance(m, nn.Conv2d)] == [64, 128, 256, 256]


def test_macs_at_800x800() -> None:
    student = counted("faster-rcnn-resnet50", bottleneck=3)
    assert row(student, "conv1").num_macs == 9_408 * 400 * 400 == 1_505_280_000
    encoder = 64 * 64 * 4 * 201**2 + 64 * 256 * 4 * 202**2 + 256 * 64 * 4 * 203**2 + 64 * 3 * 4 * 204**2
    assert row(student, "layer1.encoder").num_macs == encoder
    assert round(encoder / 1e9, 3) == 6.069
    assert round(row(student, "layer1.decoder").num_macs / 1e9, 3) == 17.150
    teacher = row(counted("faster-rcnn-resnet50"), "layer1")
    assert round(teacher.num_macs / 1e9, 3) == 8.520
    assert teacher.num_parameters == 212_992


def test_elements_of_the_bottleneck() -> None:
    square = counted("faster-rcnn-resnet50", bottleneck=3)
    wire = square.row_of("bottleneck")
    assert wire.shape == (3, 204, 204)
    assert wire.num_elements == 124_848
    assert square.relative(wire) == pytest.approx(0.065025, abs=1e-9)
    padded = counted("faster-rcnn-resnet50", (800, 1066), bottleneck=3)  # padded to 800x1088
    assert padded.row_of("bottleneck").shape == (3, 204, 276)
    assert round(padded.relative(padded.row_of("bottleneck")), 5) == 0.06602


@pytest.mark.parametrize("kind", ["faster", "mask"])
def test_naive_cuts_relative_to_the_input(kind: str) -> None:
    of = counted(f"{kind}-rcnn-resnet50")
    assert {each.name: round(of.relative(each), 3) for each in of.rows[:7]} == {
        "conv1": 5.333,
        "maxpool": 1.333,
        "layer1": 5.333,
        "layer2": 8.0,
        "layer3": 9.333,
        "layer4": 10.0,
        "fpn": 7.106,
    }


def test_a_pyramid_without_layer1_needs_one_branch_less() -> None:
    of = counted("faster-rcnn-resnet50", overrides={"finest_level": 3, "num_proposals": 100})
    relative = [round(of.relative(row(of, f"layer{number}")), 3) for number in (1, 2, 3, 4)]
    assert relative == [5.333, 2.667, 4.0, 4.667]
    # 256 x 7 x 7 cells to 1024, 1024, and 91 classes with four numbers each, for every proposal.
    assert row(of, "roi_heads").num_macs == 100 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * 91 * 5)


@pytest.mark.parametrize(
    ("depth", "layers", "fpn"),
    [
        (18, (147_456, 524_288, 2_097_152, 8_388_608), 2_607_104),
        (34, (221_184, 1_114_112, 6_815_744, 13_107_200), 2_607_104),
        (50, (212_992, 1_212_416, 7_077_888, 14_942_208), 3_344_384),
        (101, (212_992, 1_212_416, 26_017_792, 14_942_208), 3_344_384),
    ],
)
@pytest.mark.parametrize(("kind", "heads"), [("faster", 14_362_055), ("mask", 17_008_162), ("keypoint", 31_744_027)])
def test_parameters_by_module(depth: int, layers: tuple[int, ...], fpn: int, kind: str, heads: int) -> None:
    of = counted(f"{kind}-rcnn-resnet{depth}", (64, 64))
    assert [each.num_parameters for each in of.rows] == [9_408, 0, *layers, fpn, 593_935, heads]


@pytest.mark.parametrize(
    ("detector", "parameters"),
    [
        ("faster-rcnn-resnet18", 28_730_006),
        ("faster-rcnn-resnet34", 38_830_742),
        ("faster-rcnn-resnet50", 41_755_286),
        ("faster-rcnn-resnet101", 60_695_190),
        ("mask-rcnn-resnet50", 44_401_393),
        ("keypoint-rcnn-resnet50", 59_137_258),
        ("detr-resnet-18", 28_843_552),
        ("detr-resnet-34", 38_944_288),
        ("detr-resnet-50", 41_524_768),
        ("detr-resnet-101", 60_464_672),
    ],
)
def test_parameters_of_whole_detectors(detector: str, parameters: int) -> None:
    of = counted(detector, (64, 64))
    assert of.up_to(of.rows[-1])[0] == parameters


def test_the_bottleneck_saves_bytes_and_hardly_any_compute() -> None:
    """What the head computes, with the student's encoder, is more than half of what it would with the teacher's layer1."""
    student, teacher = counted("faster-rcnn-resnet50", bottleneck=3), counted("faster-rcnn-resnet50")
    head = student.up_to(student.row_of("bottleneck"))[1]
    assert head > 0.7 * teacher.up_to(row(teacher, "layer1"))[1]


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_census_and_counts_of_a_detr_agree(detector: str) -> None:
    size = (224, 320)
    of, macs = census(DETECTORS[detector], size), num_macs(DETECTORS[detector], size)
    assert of.up_to(of.rows[-1])[1] == sum(macs.values())
    assert of.up_to(of.row_of("c5"))[1] == macs["backbone"]
    shapes = wire_shapes(DETECTORS[detector], size)
    assert {cut: (1, *of.row_of(cut).shape) for cut in shapes} == shapes


@pytest.mark.parametrize("split_at", ["", "projection"])
def test_a_detr_with_a_bottleneck_is_counted_alike(split_at: str) -> None:
    config, size = model_config("detr-resnet-18", bottleneck=8, split=split_at), (200, 300)
    of, shapes = census(config, size), wire_shapes(config, size)
    assert {cut: (1, *of.row_of(cut).shape) for cut in cuts_of(config)} == shapes
    with torch.device("meta"):
        detr = Detr(config)
    assert of.up_to(of.rows[-1])[0] == num_parameters(detr).total
    segments = split(detr, ("bottleneck",), size)
    assert of.up_to(of.row_of("bottleneck"))[0] == num_parameters(detr, segments[0].prefixes).total
    plain = 28_843_552
    student = StudentLayer1(8, 64) if not split_at else ProjectionBottleneck(8, 256)
    assert num_parameters(detr).total == plain + total(student) - (147_456 if not split_at else 0)


def test_every_detector_is_named_and_bad_ones_are_refused() -> None:
    assert len(RCNNS) == 3 * len(DEPTHS)
    assert RCNNS["keypoint-rcnn-resnet34"].num_classes == 2
    for detector, options, words in (
        ("faster-rcnn-resnet51", {}, "there is no detector"),
        ("faster-rcnn-resnet50", {"split": "c5"}, "branches behind layer1"),
        ("faster-rcnn-resnet50", {"split": "c4"}, "there is no split"),
        ("faster-rcnn-resnet50", {"split": "bottleneck"}, "--bottleneck"),
        ("faster-rcnn-resnet50", {"bottleneck": -1}, "cannot be"),
        ("faster-rcnn-resnet50", {"overrides": {"num_queries": 3}}, "cannot be chosen"),
    ):
        with pytest.raises(ConfigError, match=words):
            model_config(detector, **options)  # type: ignore[arg-type]
