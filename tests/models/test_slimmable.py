"""Slimmable layers: at every width exactly the fixed network that has only the active channels."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from splitrail.models.bottleneck import ProjectionBottleneck, StudentLayer1
from splitrail.models.compressor import KINDS, CompressorKind, MBConv, build_compressor, slim_compressor
from splitrail.models.cut import split as split_detr
from splitrail.models.detr import DetrConfig
from splitrail.models.random_init import random_detr
from splitrail.models.slimmable import (
    WIDTHS,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    active_channels,
    set_width,
    sliced,
    widths_of,
)
from splitrail.models.slimmable_bottleneck import slim_bottleneck
from splitrail.pipeline.errors import ConfigError

torch.set_num_threads(1)


def alive(module: nn.Module) -> nn.Module:
    """Random statistics, scales and shifts in every normalisation, different for each width."""
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d | SlimmableBatchNorm2d):
                each.weight.uniform_(0.5, 1.5)
                each.bias.normal_(0, 0.2)
                each.running_mean.normal_(0, 0.2)
                each.running_var.uniform_(0.5, 1.5)
    return module.eval()


def cut_to(fixed: nn.Module, slim: nn.Module, width: float) -> nn.Module:
    """Fill `fixed`, built on its own with fewer channels, from the leading part of every tensor of `slim`."""
    rows = {
        f"{name}.{kind}": module.widths.index(width)
        for name, module in slim.named_modules()
        if isinstance(module, SlimmableBatchNorm2d)
        for kind in ("running_mean", "running_var", "num_batches_tracked")
    }
    source = slim.state_dict()
    state = {}
    for name, target in fixed.state_dict().items():
        value = source[name][rows[name]] if name in rows else source[name]
        state[name] = value[tuple(slice(side) for side in target.shape)]
    fixed.load_state_dict(state)
    return fixed.eval()


def test_the_published_numbers_of_channels() -> None:
    assert [active_channels(48, width) for width in WIDTHS] == [8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48]
    assert active_channels(3, 0.1) == 1


@pytest.mark.parametrize(
    ("conv", "slim_in", "slim_out"),
    [
        (nn.Conv2d(12, 10, 3, padding=1), True, True),
        (nn.Conv2d(12, 10, 1, bias=False), False, True),
        (nn.Conv2d(12, 10, 3, stride=2), True, False),
        (nn.Conv2d(12, 12, 5, padding=2, groups=12), True, True),
    ],
)
def test_a_convolution_computes_with_its_first_channels(conv: nn.Conv2d, slim_in: bool, slim_out: bool) -> None:
    slim = SlimmableConv2d(conv, slim_in=slim_in, slim_out=slim_out)
    assert slim.weight is conv.weight
    for width in WIDTHS:
        slim.width = width
        num_in = round(12 * width) if slim_in else 12
        num_out = round(conv.out_channels * width) if slim_out else conv.out_channels
        x = torch.randn(2, num_in, 9, 7)
        depthwise = conv.groups > 1
        weight = conv.weight[:num_out, : 1 if depthwise else num_in]
        bias = None if conv.bias is None else conv.bias[:num_out]
        expected = nn.functional.conv2d(x, weight, bias, conv.stride, conv.padding, 1, num_in if depthwise else 1)
        fixed = slim.sliced()
        assert type(fixed) is nn.Conv2d
        assert (fixed.in_channels, fixed.out_channels) == (num_in, num_out)
        with torch.inference_mode():
            assert torch.equal(slim(x), expected)
            assert torch.equal(fixed(x), expected)


def test_a_normalisation_has_statistics_by_width_and_shares_the_rest() -> None:
    norm = nn.BatchNorm2d(10)
    slim = SlimmableBatchNorm2d(norm, (1.0, 0.5), slim=True)
    assert slim.widths == (0.5, 1.0)
    assert slim.weight is norm.weight
    set_width(slim, 0.5)
    before = slim.running_mean[1].clone()
    x = torch.randn(8, 5, 6, 6) * 3 + 2
    reference = nn.BatchNorm2d(5)
    torch.testing.assert_close(slim.train()(x), reference.train()(x))
    torch.testing.assert_close(slim.running_mean[0, :5], reference.running_mean)
    torch.testing.assert_close(slim.running_var[0, :5], reference.running_var)
    assert torch.equal(slim.running_mean[1], before)
    assert torch.equal(slim.running_mean[0, 5:], torch.zeros(5))
    assert slim.num_batches_tracked.tolist() == [1, 0]
    with torch.inference_mode():
        assert torch.equal(slim.eval()(x), slim.sliced()(x))
    slim.reset_statistics()
    assert slim.num_batches_tracked.tolist() == [0, 0]
    assert torch.equal(slim.running_mean[0], torch.zeros(10))


def test_recalibration_is_the_mean_over_the_images() -> None:
    slim = SlimmableBatchNorm2d(nn.BatchNorm2d(4, momentum=None), (0.5, 1.0), slim=True).train()
    set_width(slim, 0.5)
    batches = [torch.randn(4, 2, 5, 5) for _ in range(3)]
    for batch in batches:
        slim(batch)
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(slim.running_mean[0, :2], expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bandwidth_configurable_compressor_is_the_narrower_one_that_one_would_build(width: float) -> None:
    num_p3, num_channels = 8, 12
    compressor, decompressor = build_compressor("mbconv", num_p3, num_channels)
    slim_compressor(compressor, decompressor, WIDTHS)
    alive(compressor)
    alive(decompressor)
    fixed = cut_to(MBConv(num_p3, round(num_channels * width)), compressor, width)
    for module in (compressor, decompressor):
        set_width(module, width)
    x = torch.randn(1, num_p3, 6, 7)
    with torch.inference_mode():
        wire = compressor(x)
        assert wire.shape == (1, round(num_channels * width), 6, 7)
        assert torch.equal(wire, fixed(x))
        assert torch.equal(decompressor(wire), sliced(decompressor, width)(wire))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("computation", [False, True])
def test_every_compressor_at_every_width_is_the_sliced_one(kind: CompressorKind, computation: bool) -> None:
    pair = build_compressor(kind, 12, 10)
    slim_compressor(*pair, WIDTHS, computation=computation)
    both = alive(nn.Sequential(*pair))
    for width in WIDTHS:
        set_width(both, width)
        num_in = 10 if kind == "restorer" else 12
        slim_in = computation or kind == "restorer"
        x = torch.randn(1, active_channels(num_in, width) if slim_in else num_in, 8, 6)
        fixed = sliced(both, width)
        assert not any(isinstance(each, SlimmableConv2d | SlimmableBatchNorm2d) for each in fixed.modules())
        with torch.inference_mode():
            out = both(x)
            assert out.shape == (1, 12, 8, 6)
            assert torch.equal(out, fixed(x))


@pytest.mark.parametrize("computation", [False, True])
@pytest.mark.parametrize(
    ("build", "channels"),
    [(lambda num: StudentLayer1(num, 32, width=8), 9), (lambda num: ProjectionBottleneck(num, 16), 8)],
    ids=["rcnn", "detr"],
)
def test_the_other_bottlenecks(build: Callable[[int], nn.Module], channels: int, computation: bool) -> None:
    slim = alive(slim_bottleneck(nn.Sequential(build(channels)), WIDTHS, computation=computation))
    num_in = 8 if isinstance(slim, StudentLayer1) else 16
    x = torch.randn(1, num_in, 6, 5)
    for width in WIDTHS:
        set_width(slim, width)
        with torch.inference_mode():
            wire = slim.encoder(x)
            assert wire.shape[1] == active_channels(channels, width)
            expected = sliced(slim, width)
            assert torch.equal(wire, expected.encoder(x))
            assert torch.equal(slim(x), expected(x))
            if not computation:
                # With what is next to the wire slimmed only, one may simply build the bottleneck with fewer channels.
                fixed = cut_to(build(active_channels(channels, width)), slim, width)
                assert torch.equal(slim(x), fixed(x))


@pytest.mark.parametrize("place", ["layer1", "projection"])
def test_a_whole_detr_is_cut_at_every_width(place: str) -> None:
    config = DetrConfig(
        18, width=8, d_model=32, heads=4, ffn=48, num_queries=7, num_classes=4, encoder_layers=1, decoder_layers=1,
        bottleneck=6, bottleneck_at=place,
    )  # fmt: skip
    detr = random_detr(config, 0)
    pixels = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    valid_size = torch.tensor([64, 90])
    slim = copy.deepcopy(detr)
    slim_bottleneck(slim, (0.34, 0.5, 1.0))
    with torch.inference_mode():
        whole = split_detr(detr, (), (64, 96))[0](pixels, valid_size)
        answers: list[tuple[Tensor, ...]] = []
        for width in (0.34, 0.5, 1.0):
            set_width(slim, width)
            head, tail = split_detr(slim, ("bottleneck",), (64, 96))
            wire = head(pixels, valid_size)[0]
            assert wire.shape[1] == round(6 * width)
            answers.append(tail(wire, valid_size))
            fixed = split_detr(sliced(slim, width), (), (64, 96))[0]
            assert all(torch.equal(a, b) for a, b in zip(answers[-1], fixed(pixels, valid_size), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(answers[-1], whole, strict=True))
    assert not torch.equal(answers[0][0], answers[-1][0])


def test_switching_changes_no_weight_and_all_widths_train_the_same_ones() -> None:
    slim = slim_bottleneck(nn.Sequential(StudentLayer1(6, 8, width=8)), (0.5, 1.0)).train()
    pointers = {name: value.data_ptr() for name, value in slim.state_dict().items()}
    x = torch.randn(2, 8, 6, 6)
    wire_weight = slim.encoder[-1].weight
    set_width(slim, 0.5)
    slim(x).square().sum().backward()
    narrow = wire_weight.grad.clone()
    assert narrow[:3].abs().sum() > 0
    assert torch.equal(narrow[3:], torch.zeros_like(narrow[3:]))
    set_width(slim, 1.0)
    slim(x).square().sum().backward()
    assert wire_weight.grad[3:].abs().sum() > 0
    assert {name: value.data_ptr() for name, value in slim.state_dict().items()} == pointers


def test_what_cannot_be_is_refused() -> None:
    slim = slim_bottleneck(nn.Sequential(ProjectionBottleneck(8, 16)), (0.5, 1.0))
    assert widths_of(slim) == (0.5, 1.0)
    with pytest.raises(ConfigError, match=r"no width 0\.3; choose among 0\.5, 1\.0"):
        set_width(slim, 0.3)
    assert all(each.width == 1.0 for each in slim.modules() if isinstance(each, SlimmableConv2d))
    with pytest.raises(ConfigError, match="already"):
        slim_bottleneck(nn.Sequential(slim), (0.5, 1.0))
    with pytest.raises(ConfigError, match="bottleneck=3"):
        slim_bottleneck(nn.Sequential(nn.Conv2d(1, 1, 1)), (0.5, 1.0))
    for widths in ((), (0.5,), (0.0, 1.0), (0.5, 0.5, 1.0), (0.5, 1.5)):
        with pytest.raises(ConfigError, match="fractions above 0"):
            slim_bottleneck(nn.Sequential(ProjectionBottleneck(8, 16)), widths)
    with pytest.raises(ConfigError, match="depthwise"):
        SlimmableConv2d(nn.Conv2d(8, 8, 3, groups=2), slim_in=True, slim_out=True)
    with pytest.raises(ConfigError, match="mbconv, units, restorer"):
        build_compressor("zip", 8, 4)
