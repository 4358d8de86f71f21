"""The bottlenecks of the R-CNNs and of DETR, slimmable.

Both are subclasses of the fixed ones (`bottleneck.py`) and stand in their places, so every cut works with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..pipeline.errors import ConfigError
from .bottleneck import ProjectionBottleneck, StudentLayer1
from .slimmable import SlimmableBatchNorm2d, SlimmableConv2d, check_widths


class SlimmableStudentLayer1(StudentLayer1):
    """The R-CNNs' bottleneck in layer1, its wire tensor being [B, round(C alpha), h + 4, w + 4].

    Bandwidth-configurable: only the convolutions on both sides of the wire are slimmed. With `computation`, all of the encoder
    (Assine et al. 2021, figure 5). Takes over the layers of `fixed`.
    """

    def __init__(self, fixed: StudentLayer1, widths: Sequence[float], *, computation: bool = False) -> None:
        nn.Module.__init__(self)
        self.training = fixed.training
        self.num_channels = fixed.num_channels
        self.widths = check_widths(widths)
        self.computation = computation
        self.encoder, self.decoder = fixed.encoder, fixed.decoder
        _slim(self.encoder, self.decoder, self.widths, computation)


class SlimmableProjectionBottleneck(ProjectionBottleneck):
    """The bottleneck behind DETR's projection, its wire tensor being [B, round(C alpha), h, w].

    As `SlimmableStudentLayer1` otherwise.
    """

    def __init__(self, fixed: ProjectionBottleneck, widths: Sequence[float], *, computation: bool = False) -> None:
        nn.Module.__init__(self)
        self.training = fixed.training
        self.num_channels = fixed.num_channels
        self.widths = check_widths(widths)
        self.computation = computation
        self.encoder, self.decoder = fixed.encoder, fixed.decoder
        _slim(self.encoder, self.decoder, self.widths, computation)


def slim_bottleneck(model: nn.Module, widths: Sequence[float], *, computation: bool = False) -> nn.Module:
    """Make the bottleneck of a `Detr` or an `Rcnn`, or inside another module, slimmable in place, and the `config` of a detector
    tell so; gives the bottleneck.

    Raises ConfigError for a detector without a bottleneck, for one that is slimmable already and for widths that cannot be.
    """
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, SlimmableStudentLayer1 | SlimmableProjectionBottleneck):
                raise ConfigError("the detector's bottleneck is slimmable already; begin with a fixed one")
            slim: SlimmableStudentLayer1 | SlimmableProjectionBottleneck
            if isinstance(child, StudentLayer1):
                slim = SlimmableStudentLayer1(child, widths, computation=computation)
            elif isinstance(child, ProjectionBottleneck):
                slim = SlimmableProjectionBottleneck(child, widths, computation=computation)
            else:
                continue
            setattr(parent, name, slim)
            config: Any = getattr(model, "config", None)
            if config is not None:
                configurable = "computation" if computation else "bandwidth"
                model.config = replace(config, widths=slim.widths, configurable=configurable)
            return slim
    raise ConfigError("only a detector with a bottleneck can be slimmable; give it one, such as bottleneck=3")


def _slim(encoder: nn.Sequential, decoder: nn.Sequential, widths: Sequence[float], computation: bool) -> None:
    convs = [index for index, layer in enumerate(encoder) if isinstance(layer, nn.Conv2d)]
    for index, layer in enumerate(list(encoder)):
        if isinstance(layer, nn.Conv2d) and (computation or index == convs[-1]):
            slim_in = computation and index != convs[0]
            _replace(encoder, index, SlimmableConv2d(layer, slim_in=slim_in, slim_out=True))
        elif isinstance(layer, nn.BatchNorm2d) and computation:
            _replace(encoder, index, SlimmableBatchNorm2d(layer, widths, slim=True))
    on_wire = True  # until the decoder's first convolution
    for index, layer in enumerate(list(decoder)):
        if isinstance(layer, nn.Conv2d) and on_wire:
            _replace(decoder, index, SlimmableConv2d(layer, slim_in=True, slim_out=False))
            on_wire = False
        elif isinstance(layer, nn.BatchNorm2d):
            _replace(decoder, index, SlimmableBatchNorm2d(layer, widths, slim=on_wire))


def _replace(layers: Any, index: int, layer: nn.Module) -> None:
    layers[index] = layer
