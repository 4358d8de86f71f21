"""Compressor and decompressor around the wire of an EfficientDet, and the two published alternatives.

| kind       | compressor (end of the head)                    | decompressor (beginning of the tail)             |
|------------|-------------------------------------------------|--------------------------------------------------|
| `mbconv`   | one inverted residual block, P3's channels to C | one inverted residual block, C to P3's channels  |
| `units`    | spatial, then channel reduction unit, ReLU      | channel, then spatial restoration unit           |
| `restorer` | none: the encoder's last block gives C channels | as `mbconv`                                      |

Source: Assine et al. 2021, section 3 and table 2; the units are those of Eshratifar et al. 2019 (BottleNet) without its JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..pipeline.errors import ConfigError
from .slimmable import SlimmableBatchNorm2d, SlimmableConv2d
from .slimmable_block import slim_block

CompressorKind = Literal["mbconv", "units", "restorer"]
KINDS: tuple[CompressorKind, ...] = ("mbconv", "units", "restorer")
_EXPAND, _SQUEEZE, _KERNEL = 6, 0.25, 5
_EPS, _MOMENTUM = 1e-3, 0.01
"""Of EfficientDet's normalisations (Tan et al. 2020, published code)."""
UNIT_STRIDE = 2
"""The spatial units halve height and width, so that C channels are a quarter of the bytes that they are with `mbconv`."""


class SqueezeExcite(nn.Module):
    """Each channel times a factor in (0, 1) that follows from the mean of all. Source: Hu et al. 2018."""

    def __init__(self, num_channels: int, num_squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(num_channels, num_squeezed, 1)
        self.act1 = nn.SiLU(inplace=True)
        self.conv_expand = nn.Conv2d(num_squeezed, num_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """float [B, C, H, W] to the same shape."""
        factors = self.conv_expand(self.act1(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(factors)


class MBConv(nn.Module):
    """An inverted residual block as in EfficientNet's stage 5 (5x5, stride 1, expanded sixfold, squeezed to a quarter of its
    input) with a linear output and without its shortcut. Layers are named as in timm. Source: Tan and Le 2019."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        inside = _EXPAND * num_in
        self.conv_pw = nn.Conv2d(num_in, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside, _EPS, _MOMENTUM)
        self.conv_dw = nn.Conv2d(inside, inside, _KERNEL, padding=_KERNEL // 2, groups=inside, bias=False)
        self.bn2 = nn.BatchNorm2d(inside, _EPS, _MOMENTUM)
        self.se = SqueezeExcite(inside, max(1, int(_SQUEEZE * num_in)))
        self.conv_pwl = nn.Conv2d(inside, num_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(num_out, _EPS, _MOMENTUM)
        self.act = nn.SiLU(inplace=True)
        for conv in (self.conv_pw, self.conv_dw, self.conv_pwl):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """float [B, num_in, H, W] to [B, num_out, H, W]."""
        x = self.act(self.bn1(self.conv_pw(x)))
        x = self.se(self.act(self.bn2(self.conv_dw(x))))
        return self.bn3(self.conv_pwl(x))  # type: ignore[no-any-return]


def build_compressor(kind: CompressorKind, num_p3: int, num_channels: int) -> tuple[nn.Module, nn.Module]:
    """Compressor and decompressor for P3 of `num_p3` channels and `num_channels` on the wire.

    P3 float [B, num_p3, h, w] to the wire [B, num_channels, h, w] (`units`: [B, num_channels, h / 2, w / 2]) and back. Of a
    `restorer` the compressor does nothing. Raises ConfigError for another kind and for less than one channel.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no compressor {kind!r}; choose among {', '.join(KINDS)}")
    if num_channels < 1:
        raise ConfigError(f"a bottleneck of {num_channels} channels carries nothing; give at least 1, such as 12")
    if kind == "units":
        return _reduction_units(num_p3, num_channels), _restoration_units(num_channels, num_p3)
    compressor = MBConv(num_p3, num_channels) if kind == "mbconv" else nn.Identity()
    return compressor, MBConv(num_channels, num_p3)


def slim_compressor(
    compressor: nn.Module, decompressor: nn.Module, widths: Sequence[float], *, computation: bool = False
) -> None:
    """Make both slimmable in place: what is next to the wire, with `computation` all of the compressor.

    With `computation` the compressor's input follows the width too. A `restorer`'s wire is the encoder's to slim.
    """
    if isinstance(compressor, MBConv):
        slim_block(compressor, widths, slim_in=computation, slim_inside=computation, slim_out=True)
    elif isinstance(compressor, nn.Sequential):
        spatial, spatial_norm, _, channel, channel_norm, _ = compressor
        assert isinstance(spatial, nn.Conv2d)
        assert isinstance(channel, nn.Conv2d)
        assert isinstance(spatial_norm, nn.BatchNorm2d)
        assert isinstance(channel_norm, nn.BatchNorm2d)
        if computation:
            compressor[0] = SlimmableConv2d(spatial, slim_in=True, slim_out=True)
            compressor[1] = SlimmableBatchNorm2d(spatial_norm, widths, slim=True)
        compressor[3] = SlimmableConv2d(channel, slim_in=computation, slim_out=True)
        compressor[4] = SlimmableBatchNorm2d(channel_norm, widths, slim=True)
    if isinstance(decompressor, MBConv):
        slim_block(decompressor, widths, slim_in=True)
    else:
        assert isinstance(decompressor, nn.Sequential)
        for index, layer in enumerate(list(decompressor)):
            if isinstance(layer, nn.BatchNorm2d):
                decompressor[index] = SlimmableBatchNorm2d(layer, widths, slim=False)
        first = decompressor[0]
        assert isinstance(first, nn.Conv2d)
        decompressor[0] = SlimmableConv2d(first, slim_in=True, slim_out=False)


def _reduction_units(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_in, 3, UNIT_STRIDE, 1, bias=False),
        nn.BatchNorm2d(num_in, _EPS, _MOMENTUM),
        nn.ReLU(),
        nn.Conv2d(num_in, num_out, 1, bias=False),
        nn.BatchNorm2d(num_out, _EPS, _MOMENTUM),
        nn.ReLU(),
    )


def _restoration_units(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 1, bias=False),
        nn.BatchNorm2d(num_out, _EPS, _MOMENTUM),
        nn.ReLU(),
        nn.ConvTranspose2d(num_out, num_out, 4, UNIT_STRIDE, 1, bias=False),
        nn.BatchNorm2d(num_out, _EPS, _MOMENTUM),
    )
