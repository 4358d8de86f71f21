"""ResNet-18/34/50/101 without its classifier: the backbone of every detector here.

Source: He et al. 2016, with the stride of a bottleneck in its 3x3 convolution (torchvision's variant, "v1.5"), which is
what DETR's published weights were trained with. Parameter names are torchvision's.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pipeline.errors import ConfigError
from .bottleneck import StudentLayer1

Norm = Literal["frozen", "batch"]

_NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
DEPTHS = tuple(_NUM_BLOCKS)


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with fixed statistics and fixed scale and shift: four buffers, no parameters.

    `eps` is 1e-5, but 0 for some published weights.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def _norm(kind: Norm, num_channels: int) -> nn.Module:
    return FrozenBatchNorm2d(num_channels) if kind == "frozen" else nn.BatchNorm2d(num_channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, num_in: int, width: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        num_out = width * self.expansion
        self.conv1 = nn.Conv2d(num_in, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, num_out, 3, padding=1, bias=False)
        self.bn2 = _norm(norm, num_out)
        self.downsample = _shortcut(num_in, num_out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in, H, W] to [B, width, ceil(H / stride), ceil(W / stride)]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut (ResNet-50 and 101); four times `width` channels come out."""

    expansion = 4

    def __init__(self, num_in: int, width: int, stride: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        num_out = width * self.expansion
        self.conv1 = nn.Conv2d(num_in, width, 1, bias=False)
        self.bn1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = _norm(norm, width)
        self.conv3 = nn.Conv2d(width, num_out, 1, bias=False)
        self.bn3 = _norm(norm, num_out)
        self.downsample = _shortcut(num_in, num_out, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in, H, W] to [B, 4 * width, ceil(H / stride), ceil(W / stride)]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution. Where it learns on a CPU it picks the pixels of its stride itself, which gives the same.

    With a stride, at most 8 input channels and channels last, oneDNN's gradient of the weights (torch 2.13.0, AVX-512) writes
    beyond its memory: the process dies, then or minutes later. More channels have not been seen to do so.
    """

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__(num_in, num_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, num_in, H, W] to [B, num_out, ceil(H / stride), ceil(W / stride)]."""
        if self.stride == (1, 1) or x.is_cuda or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        return F.conv2d(x[:, :, :: self.stride[0], :: self.stride[1]], self.weight)


def _shortcut(num_in: int, num_out: int, stride: int, norm: Norm) -> nn.Sequential | None:
    if num_in == num_out and stride == 1:
        return None
    return nn.Sequential(_Pointwise(num_in, num_out, stride), _norm(norm, num_out))


class ResNet(nn.Module):
    """The convolutional part of a ResNet.

    `depth` is 18, 34, 50 or 101. `width` is the number of channels of the stem, 64 in the paper; everything behind it scales
    with it. `dilation` trades layer4's stride for dilation (DC5 of Carion et al. 2020, there for 50 and 101 only). `norm` is
    "frozen" for inference and for training on top of published weights, "batch" for training from scratch; both have the
    same keys but for `num_batches_tracked`. With `bottleneck` layer1 is a `StudentLayer1` of so many channels. Raises
    ConfigError on anything else.
    """

    def __init__(
        self, depth: int, *, width: int = 64, dilation: bool = False, norm: Norm = "frozen", bottleneck: int = 0
    ) -> None:
        super().__init__()
        if depth not in _NUM_BLOCKS:
            raise ConfigError(f"there is no ResNet-{depth} here; choose a depth of {', '.join(map(str, DEPTHS))}")
        if width < 1:
            raise ConfigError(f"a ResNet of width {width} has no channels; give a width of at least 1")
        block = Bottleneck if depth >= 50 else BasicBlock
        self.num_channels = tuple(width * factor * block.expansion for factor in (1, 2, 4, 8))
        """Channels that layer1 to layer4 give."""
        self.last_norm = "bn3" if block is Bottleneck else "bn2"
        """Name, in each block, of the normalisation that ends its branch."""
        self.stride = 16 if dilation else 32
        """Input pixels per cell of C5, each way."""
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = _norm(norm, width)
        layers: list[nn.Module] = []
        num_in = width
        for index, num_blocks in enumerate(_NUM_BLOCKS[depth]):
            dilated = dilation and index == 3
            stride = 1 if index == 0 or dilated else 2
            blocks = []
            for number in range(num_blocks):
                # As torchvision: the first block of a dilated layer keeps the spacing of the layer before it.
                spacing = 2 if dilated and number > 0 else 1
                blocks.append(block(num_in, width * 2**index, stride if number == 0 else 1, spacing, norm))
                num_in = self.num_channels[index]
            layers.append(nn.Sequential(*blocks))
        if bottleneck:
            layers[0] = StudentLayer1(bottleneck, self.num_channels[0], width=width)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images float [B, 3, H, W] to C5, float [B, num_channels[3], ceil(H / stride), ceil(W / stride)]."""
        return self.stages(images)[-1]

    def stages(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What layer1 to layer4 give, at strides 4, 8, 16 and 32 (16 with dilation)."""
        return self.stages_after(self.layer1(self.stem(images)))

    def stem(self, images: Tensor) -> Tensor:
        """L0: normalised images float [B, 3, H, W] to [B, width, ceil(H / 4), ceil(W / 4)]."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, padding=1)

    def stages_after(self, c2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """layer1's output, and what layer2 to layer4 make of it."""
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)
