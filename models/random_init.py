"""Random weights that behave like trained ones: every layer's values of order one, answers that depend on the picture.

A freshly initialised ResNet with frozen normalisation doubles its values with every block, beyond what float16 holds, and a fresh
DETR says nearly the same for every picture. Neither would test a wire type or an engine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .attention import Attention
from .detr import Detr, DetrConfig
from .golden import picture
from .resnet import FrozenBatchNorm2d, ResNet
from .slimmable import SlimmableBatchNorm2d, set_width

_BRANCH_GAIN = 0.1
"""Share of each residual branch: whole ones blow rounding errors up two hundredfold in a hundred layers."""
_SHARPNESS = 2.5
"""Factor on the decoder's queries and keys: each query then attends to a place of its own, instead of to the average."""
_PICTURE_SIZE = (256, 320)
_NUM_PICTURES = 4
_LOGIT_STD = 2.5
_BOX_STD = 0.4


def random_detr(config: DetrConfig, seed: int) -> Detr:
    """An untrained detector, the same for the same seed, in evaluation mode.

    The statistics of its normalisations are those of a few made-up pictures, their scales and shifts random; its heads are
    scaled so that logits and boxes spread over queries and pictures.
    """
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(np.stack([picture(_PICTURE_SIZE, rng) for _ in range(_NUM_PICTURES)]))
    valid_size = torch.tensor([_PICTURE_SIZE]).expand(_NUM_PICTURES, 2)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        detr = Detr(config).eval()
        hooks = adopting(detr)
        hooks += randomise_norms(detr.backbone)
        for module in detr.transformer.decoder.modules():
            if isinstance(module, Attention):
                module.in_proj_weight[: 2 * config.d_model].mul_(_SHARPNESS)
        images = detr.normalise(pixels, valid_size)
        c5 = detr.backbone(images)
        detr.input_proj.weight.div_(detr.input_proj(c5).std())
        for width in config.widths:  # the last is 1
            set_width(detr, width)
            c5 = detr.backbone(images)
            detr.project(c5)
        features = detr.project(c5)
        cells = detr.cells(features, valid_size, _PICTURE_SIZE)
        state = detr.decode(detr.encode(features, cells), cells)[-1]
        box_head = detr.bbox_embed.layers[-1]
        assert isinstance(box_head, nn.Linear)
        _spread(detr.class_embed, detr.class_embed(state), _LOGIT_STD)
        _spread(box_head, detr.bbox_embed(state), _BOX_STD)
        for hook in hooks:
            hook.remove()
    return detr


def randomise_norms(backbone: ResNet) -> list[RemovableHandle]:
    """Random scales and shifts; the statistics follow from the next forward, after which the hooks are to be removed."""
    hooks = []
    for name, module in backbone.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.uniform_(0.5, 1.5).mul_(_BRANCH_GAIN if name.endswith(backbone.last_norm) else 1.0)
            module.bias.normal_(0, 0.2)
            hooks.append(module.register_forward_pre_hook(adopt_statistics))
    return hooks


def adopting(model: nn.Module) -> list[RemovableHandle]:
    """Hooks by which trained normalisations take their statistics from the next forward; to be removed then."""
    return [
        module.register_forward_pre_hook(adopt_statistics)
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d | SlimmableBatchNorm2d)
    ]


def adopt_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A hook before a normalisation's forward: its statistics, a slimmable one's at its present width, become those of its
    input, [B, C, H, W]."""
    assert isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d | SlimmableBatchNorm2d)
    mean, variance = module.running_mean, module.running_var
    assert mean is not None
    assert variance is not None
    (x,) = inputs
    if isinstance(module, SlimmableBatchNorm2d):
        row = module.widths.index(module.width)
        mean, variance = mean[row, : module.num_active], variance[row, : module.num_active]
    mean.copy_(x.mean((0, 2, 3)))
    variance.copy_(x.var((0, 2, 3), correction=0))


def _spread(layer: nn.Linear, outputs: Tensor, std: float) -> None:
    """Scale and shift `layer` so that its `outputs` [B, Q, n] have mean 0 and on average this standard deviation."""
    gain = std / outputs.std((0, 1)).mean()
    layer.weight.mul_(gain)
    layer.bias.copy_(-gain * (outputs.mean((0, 1)) - layer.bias))
