"""Layers whose number of active channels is chosen from one frame to the next, with one set of weights.

A layer at width alpha uses the first round(C * alpha) of its C channels. Convolutions share their weights between widths, and so
do normalisations, but each width has running statistics of its own, because the values behind fewer channels are spread
otherwise. Source: Yu et al. 2019 ("Slimmable Neural Networks"), Yu and Huang 2019 ("Universally Slimmable Networks"), as used by
Assine et al. 2021, section 3.

Any detector becomes slimmable by replacing layers: `SlimmableConv2d(conv, ...)` and `SlimmableBatchNorm2d(norm, ...)` take over
the parameters of what they replace, under the same names. `set_width` then switches all of them, and `sliced` gives the fixed
network of one width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..pipeline.errors import ConfigError

WIDTHS = (0.167, 0.25, 0.33, 0.416, 0.5, 0.58, 0.66, 0.75, 0.83, 0.916, 1.0)
"""The published widths (Assine et al. 2021)."""
Configurable = Literal["bandwidth", "computation"]
"""What follows the width: only what is next to the wire, or also what computes before it."""


def active_channels(num_channels: int, width: float) -> int:
    """round(C * alpha), at least 1; halves go to the even neighbour. `width` in (0, 1]."""
    return max(1, round(num_channels * width))


def check_widths(widths: Sequence[float]) -> tuple[float, ...]:
    """The widths in increasing order. Raises ConfigError unless they lie in (0, 1], differ, and end with 1."""
    ordered = tuple(sorted(widths))
    if not ordered or ordered[0] <= 0 or ordered[-1] != 1 or len(set(ordered)) != len(ordered):
        given = ", ".join(map(str, widths)) or "none"
        raise ConfigError(
            f"widths {given}: give different fractions above 0, the largest being 1, such as 0.25, 0.5, 1"
        )
    return ordered


def check_slimmable(widths: Sequence[float], configurable: str, bottleneck: int) -> tuple[float, ...]:
    """A detector's widths in order, none where it is not slimmable. Raises ConfigError for what cannot be."""
    if configurable not in get_args(Configurable):
        raise ConfigError(f"{configurable!r} cannot be configurable; choose bandwidth or computation")
    if not widths:
        return ()
    if not bottleneck:
        raise ConfigError("only a detector with a bottleneck has widths; give --bottleneck, such as 48")
    return check_widths(widths)


class SlimmableConv2d(nn.Conv2d):
    """A convolution of which only the first channels are active at a width below 1.

    `slim_in` and `slim_out` say which of its sides follow the width; a depthwise one has both or neither. Takes over the
    parameters of `conv`. Raises ConfigError for a grouped convolution that is not depthwise.
    """

    def __init__(self, conv: nn.Conv2d, *, slim_in: bool, slim_out: bool) -> None:
        depthwise = conv.groups > 1
        if depthwise and not (conv.groups == conv.in_channels == conv.out_channels and slim_in == slim_out):
            raise ConfigError(
                f"a convolution in {conv.groups} groups of {conv.in_channels} to {conv.out_channels} channels cannot be slimmed "
                f"on one side; only dense and depthwise ones can"
            )
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.slim_in, self.slim_out = slim_in, slim_out
        self.width = 1.0
        self._kind = type(conv)
        # timm's TensorFlow padding; known by its name, because timm is not needed for anything else here.
        self._pads_same = self._kind.__name__ == "Conv2dSame"
        self.training = conv.training

    @property
    def num_active(self) -> tuple[int, int]:
        """Active input and output channels at the present width."""
        num_in = active_channels(self.in_channels, self.width) if self.slim_in else self.in_channels
        return num_in, active_channels(self.out_channels, self.width) if self.slim_out else self.out_channels

    def forward(self, input: Tensor) -> Tensor:
        """float [B, active inputs, H, W] to [B, active outputs, h, w]."""
        weight, bias = self._active_parameters()
        if self._pads_same:
            input = F.pad(input, (*self._same(input.shape[3], 1), *self._same(input.shape[2], 0)))
        groups = 1 if self.groups == 1 else len(weight)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, groups)

    def sliced(self, *, share: bool = False) -> nn.Conv2d:
        """The convolution of the present width alone, with copies of its parameters, or with `share` views of them."""
        weight, bias = self._active_parameters()
        num_in, num_out = self.num_active
        groups = 1 if self.groups == 1 else num_out
        shape = (self.kernel_size, self.stride, self.padding, self.dilation)
        conv = self._kind(num_in, num_out, *shape, groups, bias is not None, device="meta")  # type: ignore[arg-type]
        conv.weight = _parameter(weight, share=share)
        conv.bias = None if bias is None else _parameter(bias, share=share)
        return conv.train(self.training)

    def _active_parameters(self) -> tuple[Tensor, Tensor | None]:
        num_in, num_out = self.num_active
        weight = self.weight[:num_out] if self.groups > 1 else self.weight[:num_out, :num_in]
        return weight, None if self.bias is None else self.bias[:num_out]

    def _same(self, side: int, axis: int) -> tuple[int, int]:
        stride, reach = self.stride[axis], (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        padding = max((-(-side // stride) - 1) * stride + reach - side, 0)
        return padding // 2, padding - padding // 2


class SlimmableBatchNorm2d(nn.Module):
    """Batch normalisation with a shared scale and shift and running statistics for each of `widths`.

    With `slim` its channels follow the width; without, all are active, but what comes before depends on the width. Takes over the
    parameters of `norm`, whose statistics every width begins with, and its activation where it has one (timm's).
    """

    running_mean: Tensor
    """float [widths, C]; of each row the active channels count."""
    running_var: Tensor
    num_batches_tracked: Tensor
    """int64 [widths]."""

    def __init__(self, norm: nn.BatchNorm2d, widths: Sequence[float], *, slim: bool) -> None:
        super().__init__()
        self.widths = check_widths(widths)
        self.width = 1.0
        self.slim = slim
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        assert norm.running_mean is not None
        assert norm.running_var is not None
        rows = len(self.widths)
        self.register_buffer("running_mean", norm.running_mean.repeat(rows, 1))
        self.register_buffer("running_var", norm.running_var.repeat(rows, 1))
        self.register_buffer("num_batches_tracked", torch.zeros(rows, dtype=torch.int64, device=norm.weight.device))
        act = getattr(norm, "act", None)
        self.act: nn.Module = act if isinstance(act, nn.Module) else nn.Identity()
        self.training = norm.training

    @property
    def num_active(self) -> int:
        """Active channels at the present width."""
        return active_channels(self.num_features, self.width) if self.slim else self.num_features

    def forward(self, x: Tensor) -> Tensor:
        """float [B, active, H, W] to the same shape; in training mode the present width's statistics are updated."""
        row, active = self.widths.index(self.width), self.num_active
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked[row] += 1
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked[row])
        mean, variance = self.running_mean[row, :active], self.running_var[row, :active]
        x = F.batch_norm(
            x, mean, variance, self.weight[:active], self.bias[:active], self.training, momentum or 0.0, self.eps
        )
        return self.act(x)  # type: ignore[no-any-return]

    def reset_statistics(self) -> None:
        """Forget the present width's statistics, so that they can be taken anew over some images (recalibration)."""
        row = self.widths.index(self.width)
        self.running_mean[row].zero_()
        self.running_var[row].fill_(1)
        self.num_batches_tracked[row] = 0

    def sliced(self, *, share: bool = False) -> nn.Module:
        """The normalisation of the present width alone, and the activation behind it; see `SlimmableConv2d.sliced`."""
        row, active = self.widths.index(self.width), self.num_active
        norm = nn.BatchNorm2d(active, self.eps, self.momentum, device="meta")
        norm.weight = _parameter(self.weight[:active], share=share)
        norm.bias = _parameter(self.bias[:active], share=share)
        buffers = (self.running_mean[row, :active], self.running_var[row, :active], self.num_batches_tracked[row])
        norm.running_mean, norm.running_var, norm.num_batches_tracked = (
            buffer if share else buffer.clone() for buffer in buffers
        )
        whole = norm if isinstance(self.act, nn.Identity) else nn.Sequential(norm, copy.deepcopy(self.act))
        return whole.train(self.training)


def widths_of(module: nn.Module) -> tuple[float, ...]:
    """The widths that `module` knows, increasing; only 1 where nothing in it is slimmable."""
    return next((each.widths for each in module.modules() if isinstance(each, SlimmableBatchNorm2d)), (1.0,))


def set_width(module: nn.Module, width: float) -> None:
    """Switch every slimmable layer inside `module`. Nothing is copied or reloaded.

    Raises ConfigError for a width that has no statistics of its own; then nothing is changed.
    """
    known = widths_of(module)
    if width not in known:
        raise ConfigError(f"there is no width {width}; choose among {', '.join(map(str, known))}")
    for each in module.modules():
        if isinstance(each, SlimmableConv2d | SlimmableBatchNorm2d):
            each.width = width


def sliced(module: nn.Module, width: float, *, share: bool = False) -> nn.Module:
    """The fixed network that `module` is at `width`: a copy with ordinary layers that holds only what is active.

    With `share` nothing is copied: its tensors are those of `module`, or views of them. Raises ConfigError as `set_width`.
    """
    tensors = [*module.parameters(), *module.buffers()] if share else []
    fixed = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
    set_width(fixed, width)
    if isinstance(fixed, SlimmableConv2d | SlimmableBatchNorm2d):
        return fixed.sliced(share=share)
    for parent in list(fixed.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SlimmableConv2d | SlimmableBatchNorm2d):
                setattr(parent, name, child.sliced(share=share))
    return fixed


def _parameter(values: Tensor, *, share: bool) -> nn.Parameter:
    values = values.detach()
    return nn.Parameter(values if share else values.clone(), requires_grad=not share)
