"""Either family of detectors by its configuration: building, cutting, and what a bundle says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..stages.bundle import PostProcess, PreProcess
from .counts import max_cells
from .cut import split as split_detr
from .detr import Detr, DetrConfig
from .random_init import random_detr
from .rcnn_config import MAX_DETECTIONS, RcnnConfig
from .segment import Segment

Config = DetrConfig | RcnnConfig


def build_detector(config: Config) -> nn.Module:
    """The detector with fresh weights. Raises OperatorsError where an R-CNN lacks torchvision."""
    if isinstance(config, DetrConfig):
        return Detr(config)
    from .rcnn import Rcnn

    return Rcnn(config)


def random_detector(config: Config, seed: int) -> nn.Module:
    """An untrained detector that behaves like a trained one, the same for the same seed, in evaluation mode."""
    if isinstance(config, DetrConfig):
        return random_detr(config, seed)
    from .rcnn_init import random_rcnn

    return random_rcnn(config, seed)


def config_of_detector(model: nn.Module) -> Config:
    """What `build_detector` made it from."""
    config = model.config
    assert isinstance(config, DetrConfig | RcnnConfig)
    return config


def split_detector(model: nn.Module, cuts: Sequence[str], preprocess: PreProcess) -> list[Segment]:
    """The segments between `cuts`, for images as `preprocess` gives them. Raises ConfigError as `segment.between`."""
    segments: Sequence[Segment]
    if isinstance(model, Detr):
        segments = split_detr(model, cuts, preprocess.pixel_size)
    else:
        from .rcnn import Rcnn
        from .rcnn_cut import split as split_rcnn

        assert isinstance(model, Rcnn)
        segments = split_rcnn(model, cuts, preprocess.pixel_size)
    return [segment.eval() for segment in segments]


def for_inference(model: nn.Module) -> nn.Module:
    """The same weights, on the CPU in float32, with frozen normalisation; `model` itself stays as it is."""
    with torch.device("meta"):
        fresh = build_detector(dataclasses.replace(config_of_detector(model), norm="frozen"))
    state: dict[str, Tensor] = {
        name: value.detach().float().cpu()
        for name, value in model.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }
    fresh.load_state_dict(state, assign=True)
    return fresh.eval()


def preprocess_of(
    config: Config, size: tuple[int, int] | None, short_side: int = 800, max_long_side: int = 1333
) -> PreProcess:
    """How such a detector wants its images."""
    return PreProcess(
        kind="detr" if isinstance(config, DetrConfig) else "rcnn",
        size=size,
        short_side=short_side,
        max_long_side=max_long_side,
    )


def postprocess_of(config: Config, score_threshold: float) -> PostProcess:
    """How its outputs become detections."""
    if isinstance(config, DetrConfig):
        return PostProcess(score_threshold=score_threshold)
    return PostProcess(
        kind="rcnn",
        score_threshold=score_threshold,
        max_detections=MAX_DETECTIONS,
        masks=config.kind == "mask",
        num_keypoints=config.num_keypoints if config.kind == "keypoint" else 0,
    )


def max_wire_cells(config: Config, cut: str, preprocess: PreProcess) -> int:
    """Most cells (height times width) that the tensor at `cut` can have."""
    at_quarter = cut == "l0" or (
        cut == "bottleneck" and (isinstance(config, RcnnConfig) or config.bottleneck_at == "layer1")
    )
    margin = 4 if at_quarter and cut == "bottleneck" else 0
    stride = 4 if at_quarter else (16 if isinstance(config, DetrConfig) and config.dilation else 32)
    if preprocess.pixel_size is not None:
        height, width = (-(-side // stride) + margin for side in preprocess.pixel_size)
        return height * width
    if isinstance(config, RcnnConfig):
        height, width = preprocess.padded((preprocess.short_side, preprocess.max_long_side))
        return (height // stride + margin) * (width // stride + margin)
    return max_cells(preprocess.short_side, preprocess.max_long_side, stride, margin)
