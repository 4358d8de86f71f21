"""Bottlenecks: shapes, where they lie, and that cutting one changes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from splitrail.models.bottleneck import LAYER1_CHANNELS, PROJECTION_CHANNELS, ProjectionBottleneck, StudentLayer1
from splitrail.models.cut import cuts_of, split
from splitrail.models.detr import BottleneckAt, DetrConfig
from splitrail.models.names import DETECTORS
from splitrail.models.random_init import random_detr
from splitrail.models.resnet import ResNet
from splitrail.pipeline.errors import ConfigError


@pytest.mark.parametrize("channels", LAYER1_CHANNELS)
@pytest.mark.parametrize(("depth", "num_out"), [(18, 64), (34, 64), (50, 256), (101, 256)])
def test_the_student_has_the_shapes_of_the_paper(channels: int, depth: int, num_out: int) -> None:
    with torch.device("meta"):
        resnet = ResNet(depth, bottleneck=channels)
        l0 = torch.zeros(1, 64, 25, 34)
        wire = resnet.layer1.encoder(l0)
        assert wire.shape == (1, channels, 29, 38)
        assert resnet.layer1.decoder(wire).shape == ResNet(depth).layer1(l0).shape == (1, num_out, 25, 34)
    convs = [module for module in resnet.layer1.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.kernel_size == (2, 2) and conv.stride == (1, 1) and conv.bias is None for conv in convs)


def test_it_follows_the_width_of_a_small_resnet() -> None:
    resnet = ResNet(18, width=24, bottleneck=3).eval()
    assert [x.shape[1] for x in resnet.stages(torch.zeros(1, 3, 64, 64))] == [24, 48, 96, 192]


@pytest.mark.parametrize("channels", PROJECTION_CHANNELS)
def test_the_projection_bottleneck_keeps_the_cells(channels: int) -> None:
    bottleneck = ProjectionBottleneck(channels, 256)
    x = torch.randn(2, 256, 5, 7)
    assert bottleneck.encoder(x).shape == (2, channels, 5, 7)
    assert bottleneck(x).shape == x.shape


@pytest.mark.parametrize("place", ["layer1", "projection"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_tail_of_head_is_the_whole_detr_bit_for_bit(detector: str, place: BottleneckAt) -> None:
    torch.set_num_threads(1)
    config = replace(
        DETECTORS[detector], width=8, d_model=32, heads=4, ffn=48, num_queries=7, num_classes=4, encoder_layers=1,
        decoder_layers=1, bottleneck=3, bottleneck_at=place,
    )  # fmt: skip
    detr = random_detr(config, 0)
    pixels = torch.randint(0, 256, (1, 70, 97, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    valid_size = torch.tensor([70, 80])
    every = cuts_of(config)
    assert "bottleneck" in every
    with torch.inference_mode():
        expected = split(detr, (), (70, 97))[0](pixels, valid_size)
        whole = detr(detr.normalise(pixels, valid_size[None]), valid_size[None])[-1]
        for number in range(1, len(every) + 1):
            for cuts in combinations(every, number):
                x = pixels
                for segment in split(detr, cuts, (70, 97)):
                    outputs = segment(x, valid_size)
                    x = outputs[0].clone()
                assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True)), cuts
    torch.testing.assert_close(expected[0], whole.logits, atol=1e-4, rtol=1e-4)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        StudentLayer1(0, 256)
    with pytest.raises(ConfigError, match="64 or 256"):
        StudentLayer1(3, 128)
    with pytest.raises(ConfigError, match="bottleneck"):
        DetrConfig(bottleneck=-1)
