"""Learned bottlenecks: a few channels in the middle of a detector, where little has to travel.

Both modules are an `encoder` (the end of the head) and a `decoder` (the beginning of the tail); what lies between them is the
tensor on the wire. They are trained to give what the teacher gives at the same place (feature matching).
"""

from __future__ import annotations

from torch import Tensor, nn

from ..pipeline.errors import ConfigError

LAYER1_CHANNELS = (3, 6, 9, 12, 15)
"""Published widths of the bottleneck in layer1 (Matsubara and Levorato 2020, "Split Computing for Complex Object Detectors")."""
PROJECTION_CHANNELS = (8, 16, 32, 64)
"""Widths of the bottleneck behind DETR's projection that are worth trying."""


class StudentLayer1(nn.Module):
    """Stands in for a ResNet's layer1: four 2x2 convolutions down to `num_channels`, four back up; stride 1 throughout.

    `num_out` is what the teacher's layer1 gives: 4 * `width` (ResNet-50, 101) or `width` (18, 34), where `width` is that of the
    stem. Source: Matsubara and Levorato 2020, section 4, and Matsubara et al. 2020 (GHND), section 4; all convolutions
    without bias.
    """

    def __init__(self, num_channels: int, num_out: int, *, width: int = 64) -> None:
        super().__init__()
        _check(num_channels)
        if num_out not in (width, 4 * width):
            raise ConfigError(f"layer1 behind {width} channels gives {width} or {4 * width} channels, not {num_out}")
        self.num_channels = num_channels
        last = (4 * width, 4 * width) if num_out == 4 * width else (width, width)
        self.encoder = nn.Sequential(
            _conv(width, width, 1),
            nn.BatchNorm2d(width),
            _conv(width, 4 * width, 1),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
            _conv(4 * width, width, 1),
            nn.BatchNorm2d(width),
            _conv(width, num_channels, 1),
        )
        """float [B, width, h, w] (the stem's output) to the tensor on the wire, [B, num_channels, h + 4, w + 4]."""
        self.decoder = nn.Sequential(
            nn.BatchNorm2d(num_channels),
            nn.ReLU(),
            _conv(num_channels, width, 0),
            nn.BatchNorm2d(width),
            _conv(width, 2 * width, 0),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            _conv(2 * width, last[0], 0),
            nn.BatchNorm2d(last[0]),
            _conv(last[0], last[1], 0),
            nn.BatchNorm2d(last[1]),
            nn.ReLU(),
        )
        """The tensor on the wire [B, num_channels, h + 4, w + 4] to layer1's output, [B, num_out, h, w], not negative."""

    def forward(self, x: Tensor) -> Tensor:
        """The stem's output float [B, width, h, w] to [B, num_out, h, w]."""
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


class ProjectionBottleneck(nn.Module):
    """Behind DETR's projection: `d_model` channels to `num_channels` and back, same height and width.

    A 3x3 convolution mixes neighbouring cells and a 1x1 convolution narrows; the decoder mirrors that. Ours, not published:
    at stride 32 a few channels are fewer bytes than a JPEG of the image.
    """

    def __init__(self, num_channels: int, d_model: int) -> None:
        super().__init__()
        _check(num_channels)
        self.num_channels = num_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(d_model, d_model, 3, padding=1, bias=False),
            nn.BatchNorm2d(d_model),
            nn.ReLU(),
            nn.Conv2d(d_model, num_channels, 1),
        )
        """Projected features float [B, d, h, w] to the tensor on the wire, [B, num_channels, h, w]."""
        self.decoder = nn.Sequential(
            nn.Conv2d(num_channels, d_model, 1, bias=False),
            nn.BatchNorm2d(d_model),
            nn.ReLU(),
            nn.Conv2d(d_model, d_model, 3, padding=1),
        )
        """The tensor on the wire [B, num_channels, h, w] to projected features [B, d, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        """Projected features float [B, d, h, w] to their reconstruction, of the same shape."""
        return self.decoder(self.encoder(x))  # type: ignore[no-any-return]


def _conv(num_in: int, num_out: int, padding: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 2, padding=padding, bias=False)


def _check(num_channels: int) -> None:
    if num_channels < 1:
        raise ConfigError(f"a bottleneck of {num_channels} channels carries nothing; give at least 1, such as 3")
