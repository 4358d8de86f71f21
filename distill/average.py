"""The average of a detector's weights over its last steps, which is steadier than any one of them."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """An exponential moving average of parameters and statistics, in `model`. Early on it forgets faster (as TensorFlow's)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After step number `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)
