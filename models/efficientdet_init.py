"""Random weights for an EfficientDet that behave like trained ones: see `random_init.py`.

Freshly initialised, its class net says the same low score everywhere, so that the candidates would all tie.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .efficientdet import EfficientDet
from .efficientdet_config import EfficientDetConfig
from .golden import picture
from .pixels import normalise
from .random_init import adopting
from .slimmable import SlimmableBatchNorm2d, set_width

_NUM_PICTURES = 6
_LEAST_VARIANCE = 0.3
"""Of a channel, in parts of the mean of all."""
_LOGIT_STD = 3.0
_CODE_STD = 0.15
_CANDIDATES = 60
"""Pairs of anchor and class that score above one half, in all pictures, at width 1."""


def random_efficientdet(config: EfficientDetConfig, seed: int) -> EfficientDet:
    """An untrained EfficientDet, the same for the same seed, in evaluation mode.

    The statistics of its normalisations are those of a few made-up pictures, at every width; its last layers are scaled so
    that scores and boxes spread over the anchors. Raises EfficientDetError where effdet is not installed.
    """
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(np.stack([picture(config.size, rng) for _ in range(_NUM_PICTURES)]))
    images = normalise(pixels, torch.tensor([config.size]).expand(_NUM_PICTURES, 2))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = EfficientDet(config).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # Depthwise and squeezing layers that keep the size of what they get.
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        hooks = adopting(model)
        for width in config.widths or (1.0,):  # the last is 1
            set_width(model, width)
            model(images)
        for hook in hooks:
            hook.remove()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | SlimmableBatchNorm2d):
                # A coarse level has a few cells only, in which a channel may have hardly varied by chance.
                variance = module.running_var
                assert variance is not None
                variance.copy_(torch.maximum(variance, variance.mean(-1, keepdim=True) * _LEAST_VARIANCE))
        logits, codes = model(images)
        _spread(model.class_net.predict.conv_pw, logits, _LOGIT_STD)
        _spread(model.box_net.predict.conv_pw, codes, _CODE_STD)
        flat = torch.cat([level.flatten() for level in model(images)[0]])
        threshold = flat.topk(_CANDIDATES).values[-1]
        model.class_net.predict.conv_pw.bias.sub_(threshold)
    return model


def _spread(layer: nn.Conv2d, outputs: list[Tensor], std: float) -> None:
    """Scale and shift the last `layer` of a net so that its `outputs` of all levels have mean 0 and this deviation."""
    flat = torch.cat([level.flatten() for level in outputs])
    gain = std / flat.std()
    layer.weight.mul_(gain)
    assert layer.bias is not None
    layer.bias.copy_(-gain * (flat.mean() - layer.bias))
