"""Every integer that follows from the architecture alone (Carion et al. 2020; Titarsolej 2021, table 3.1)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitrail.models.counts import max_cells, num_macs, num_parameters, wire_shapes
from splitrail.models.cut import CUTS, split
from splitrail.models.detr import Detr, DetrConfig
from splitrail.models.names import DETECTORS, config_of

SIZE = (800, 1066)


def meta(config: DetrConfig) -> Detr:
    with torch.device("meta"):
        return Detr(config)


@pytest.mark.parametrize(
    ("detector", "total"),
    [
        ("detr-resnet-18", 28_843_552),
        ("detr-resnet-34", 38_944_288),
        ("detr-resnet-50", 41_524_768),
        ("detr-resnet-101", 60_464_672),
        ("detr-resnet-50-dc5", 41_524_768),
        ("detr-resnet-101-dc5", 60_464_672),
    ],
)
def test_parameters_of_every_named_detector(detector: str, total: int) -> None:
    assert num_parameters(meta(DETECTORS[detector])).total == total


def test_trainable_leaves_out_the_stem_and_layer1() -> None:
    assert num_parameters(meta(DETECTORS["detr-resnet-50"])).trainable == 41_302_368


def test_parameters_of_one_layer() -> None:
    detr = meta(DETECTORS["detr-resnet-50"])
    assert num_parameters(detr, ("transformer.encoder.layers.0.",)).total == 1_315_072
    assert num_parameters(detr, ("transformer.decoder.layers.0.",)).total == 1_578_752


def test_parameters_published_for_twelve_encoder_layers() -> None:
    """Printed as 49.2M and 46.8M."""
    assert num_parameters(meta(config_of("detr-resnet-50", {"encoder_layers": 12}))).trainable == 49_192_800
    assert num_parameters(meta(config_of("detr-resnet-34", {"encoder_layers": 12}))).total == 46_834_720


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (18, (147_456, 524_288, 2_097_152, 8_388_608)),
        (34, (221_184, 1_114_112, 6_815_744, 13_107_200)),
        (50, (212_992, 1_212_416, 7_077_888, 14_942_208)),
        (101, (212_992, 1_212_416, 26_017_792, 14_942_208)),
    ],
)
def test_parameters_of_the_backbone_by_layer(depth: int, layers: tuple[int, ...]) -> None:
    detr = meta(DetrConfig(depth=depth))
    assert num_parameters(detr, ("backbone.conv1.",)).total == 9_408
    assert tuple(num_parameters(detr, (f"backbone.layer{i}.",)).total for i in (1, 2, 3, 4)) == layers


def test_live_normalisation_counts_no_more_than_frozen() -> None:
    assert num_parameters(meta(DetrConfig(norm="batch"))) == num_parameters(meta(DetrConfig()))


@pytest.mark.parametrize("cuts", [(), ("c5",), ("projection",), ("c5", "projection", "memory")])
def test_segments_share_out_all_parameters(cuts: tuple[str, ...]) -> None:
    detr = meta(DetrConfig())
    segments = split(detr, cuts, None)
    assert sum(num_parameters(detr, segment.prefixes).total for segment in segments) == 41_524_768


@pytest.mark.parametrize(
    ("detector", "backbone", "projection"),
    [
        ("detr-resnet-18", 31.06, 0.11),
        ("detr-resnet-34", 62.72, 0.11),
        ("detr-resnet-50", 69.98, 0.45),
        ("detr-resnet-101", 133.43, 0.45),
    ],
)
def test_macs_at_800x1066(detector: str, backbone: float, projection: float) -> None:
    macs = num_macs(DETECTORS[detector], SIZE)
    billions = {part: round(count / 1e9, 2) for part, count in macs.items()}
    assert billions == {"backbone": backbone, "projection": projection, "encoder": 8.90, "decoder": 1.83, "heads": 0.02}


def test_macs_of_an_encoder_layer_by_its_formula() -> None:
    d, ffn, cells = 256, 2048, 25 * 34
    layer = cells * (4 * d * d + 2 * d * ffn) + 2 * cells * cells * d
    assert num_macs(DetrConfig(encoder_layers=3), SIZE)["encoder"] == 3 * layer


def test_tensors_at_800x1066() -> None:
    shapes = wire_shapes(DETECTORS["detr-resnet-50"], SIZE)
    assert shapes["c5"] == (1, 2048, 25, 34)
    assert math.prod(shapes["c5"]) == 1_740_800
    assert shapes["projection"] == shapes["memory"] == (1, 256, 25, 34)
    assert math.prod(shapes["projection"]) == 217_600
    for detector in ("detr-resnet-18", "detr-resnet-34"):
        assert wire_shapes(DETECTORS[detector], SIZE)["c5"] == (1, 512, 25, 34)


@pytest.mark.parametrize("detector", ["detr-resnet-18", "detr-resnet-101", "detr-resnet-50-dc5"])
@pytest.mark.parametrize("size", [SIZE, (333, 415)])
def test_wire_shapes_are_those_of_the_model(detector: str, size: tuple[int, int]) -> None:
    shapes = wire_shapes(DETECTORS[detector], size)
    with torch.device("meta"):
        detr = Detr(DETECTORS[detector]).eval()
        x = torch.zeros(1, *size, 3, dtype=torch.uint8)
        valid_size = torch.zeros(2, dtype=torch.int64)
        for cut, segment in zip(CUTS, split(detr, CUTS, size), strict=False):
            (x,) = segment.compute(x, valid_size)
            assert tuple(x.shape) == shapes[cut]


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([(800, 1333), (128, 213), (100, 1024)]))
def test_no_image_has_more_cells_than_the_bound(height: int, width: int, sides: tuple[int, int]) -> None:
    """Sizes by the reference's rule (Carion et al. 2020, published code)."""
    short, max_long = sides
    ratio = max(height, width) / min(height, width)
    if ratio * short > max_long:
        short = round(max_long / ratio)
    for stride in (16, 32):
        cells = -(-short // stride) * -(-int(short * ratio) // stride)
        assert cells <= max_cells(*sides, stride)


def test_the_bound_is_reached_at_the_papers_size() -> None:
    assert max_cells(800, 1333, 32) == 25 * 42
