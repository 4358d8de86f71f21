"""Which parameters learn how fast, and when."""

from __future__ import annotations

import math

import torch
from torch import nn

from .recipe import OptimiserRecipe

_STEP_FACTOR = 0.1
_NORM_FREE = 1
"""Parameters of one dimension, biases and normalisations', are not pulled towards zero."""


def make_optimiser(learner: nn.Module, backbone: nn.Module, recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """AdamW over everything of `learner` that learns, its part `backbone` at its own rate (none where that is 0)."""
    backbone.requires_grad_(recipe.backbone_lr > 0)
    of_backbone = set(backbone.parameters())
    groups = []
    for in_backbone, lr in ((True, recipe.backbone_lr), (False, recipe.lr)):
        for decays in (True, False):
            parameters = [
                parameter
                for parameter in learner.parameters()
                if parameter.requires_grad
                and (parameter in of_backbone) == in_backbone
                and (parameter.dim() > _NORM_FREE) == decays
            ]
            if parameters:
                decay = recipe.weight_decay if decays else 0.0
                groups.append({"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def set_rate(
    optimiser: torch.optim.Optimizer, recipe: OptimiserRecipe, step: int, num_steps: int, phase_begin: int = 0
) -> None:
    """For step number `step` of `num_steps`, from 0, in a phase that began at `phase_begin`."""
    factor = rate_factor(recipe, step, num_steps, phase_begin)
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor


def rate_factor(recipe: OptimiserRecipe, step: int, num_steps: int, phase_begin: int = 0) -> float:
    """What the rates are multiplied with, in (0, 1]: up during a phase's warm-up, 1, and down after `hold` of all steps."""
    factor = min(1.0, (step - phase_begin + 1) / (recipe.warm_up_steps + 1))
    begin = recipe.hold * num_steps
    if step < begin:
        return factor
    if recipe.decay == "step":
        return factor * _STEP_FACTOR
    left = (num_steps - step) / max(1.0, num_steps - begin)
    return factor * (left if recipe.decay == "linear" else (1 - math.cos(math.pi * left)) / 2)
