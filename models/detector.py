"""Any family of detectors by its configuration: building, cutting, and what a bundle says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..pipeline.errors import ConfigError
from ..stages.bundle import PostProcess, PreProcess
from .compressor import UNIT_STRIDE
from .counts import max_cells
from .cut import split as split_detr
from .detr import Detr, DetrConfig
from .efficientdet_config import P3_STRIDE, EfficientDetConfig
from .random_init import random_detr
from .rcnn_config import MAX_DETECTIONS, RcnnConfig
from .segment import Segment

Config = DetrConfig | RcnnConfig | EfficientDetConfig


def build_detector(config: Config) -> nn.Module:
    """The detector with fresh weights. Raises OperatorsError where an R-CNN lacks torchvision, EfficientDetError where an
    EfficientDet lacks effdet."""
    if isinstance(config, DetrConfig):
        return Detr(config)
    if isinstance(config, EfficientDetConfig):
        from .efficientdet import EfficientDet

        return EfficientDet(config)
    from .rcnn import Rcnn

    return Rcnn(config)


def random_detector(config: Config, seed: int) -> nn.Module:
    """An untrained detector that behaves like a trained one, the same for the same seed, in evaluation mode."""
    if isinstance(config, DetrConfig):
        return random_detr(config, seed)
    if isinstance(config, EfficientDetConfig):
        from .efficientdet_init import random_efficientdet

        return random_efficientdet(config, seed)
    from .rcnn_init import random_rcnn

    return random_rcnn(config, seed)


def config_of_detector(model: nn.Module) -> Config:
    """What `build_detector` made it from."""
    config = model.config
    assert isinstance(config, DetrConfig | RcnnConfig | EfficientDetConfig)
    return config


def config_of_arguments(arguments: Mapping[str, Any]) -> Config:
    """A configuration from its fields, as checkpoints and bundles keep them (`dataclasses.asdict`).

    Raises TypeError for a field that there is not, ConfigError for a value that cannot be.
    """
    family: type[Config] = DetrConfig
    if "kind" in arguments:
        family = RcnnConfig
    elif "level" in arguments:
        family = EfficientDetConfig
    return family(**arguments)


def split_detector(model: nn.Module, cuts: Sequence[str], preprocess: PreProcess) -> list[Segment]:
    """The segments between `cuts`, for images as `preprocess` gives them. Raises ConfigError as `segment.between`."""
    segments: Sequence[Segment]
    config = config_of_detector(model)
    if isinstance(model, Detr):
        segments = split_detr(model, cuts, preprocess.pixel_size)
    elif isinstance(config, EfficientDetConfig):
        from .efficientdet import EfficientDet
        from .efficientdet_cut import split as split_efficientdet

        assert isinstance(model, EfficientDet)
        segments = split_efficientdet(model, cuts)
    else:
        from .rcnn import Rcnn
        from .rcnn_cut import split as split_rcnn

        assert isinstance(model, Rcnn)
        segments = split_rcnn(model, cuts, preprocess.pixel_size)
    return [segment.eval() for segment in segments]


def for_inference(model: nn.Module) -> nn.Module:
    """The same weights, on the CPU in float32, with frozen normalisation; `model` itself stays as it is."""
    config = config_of_detector(model)
    if not isinstance(config, EfficientDetConfig):
        config = dataclasses.replace(config, norm="frozen")
    with torch.device("meta"):
        fresh = build_detector(config)
    known = fresh.state_dict()
    state: dict[str, Tensor] = {
        name: value.detach().cpu().float() if value.is_floating_point() else value.detach().cpu()
        for name, value in model.state_dict().items()
        # Frozen normalisation counts no batches.
        if name in known or not name.endswith(".num_batches_tracked")
    }
    fresh.load_state_dict(state, assign=True)
    return fresh.eval()


def preprocess_of(
    config: Config, size: tuple[int, int] | None, short_side: int = 800, max_long_side: int = 1333
) -> PreProcess:
    """How such a detector wants its images. An EfficientDet has a size of its own, which `size` may only repeat.

    Raises ConfigError for another one.
    """
    if isinstance(config, EfficientDetConfig):
        if size not in (None, config.size):
            raise ConfigError(f"this EfficientDet reads {config.size[0]}x{config.size[1]}; leave the size out")
        return PreProcess(size=config.size)
    return PreProcess(
        kind="detr" if isinstance(config, DetrConfig) else "rcnn",
        size=size,
        short_side=short_side,
        max_long_side=max_long_side,
    )


def postprocess_of(config: Config, score_threshold: float) -> PostProcess:
    """How its outputs become detections. An EfficientDet's graphs end as an R-CNN's do."""
    if isinstance(config, DetrConfig):
        return PostProcess(score_threshold=score_threshold)
    return PostProcess(
        kind="rcnn",
        score_threshold=score_threshold,
        max_detections=MAX_DETECTIONS,
        masks=isinstance(config, RcnnConfig) and config.kind == "mask",
        num_keypoints=config.num_keypoints if isinstance(config, RcnnConfig) and config.kind == "keypoint" else 0,
    )


def num_labels(config: Config) -> int:
    """How many names of classes it needs: a label is an index among them. An EfficientDet's labels begin at 1."""
    return config.num_classes + isinstance(config, EfficientDetConfig)


def max_wire_cells(config: Config, cut: str, preprocess: PreProcess) -> int:
    """Most cells (height times width) that the tensor at `cut` can have."""
    if isinstance(config, EfficientDetConfig):
        halved = cut == "bottleneck" and config.bottleneck and config.compressor == "units"
        stride = P3_STRIDE * (UNIT_STRIDE if halved else 1)
        return (config.size[0] // stride) * (config.size[1] // stride)
    quarter = ["l0"]
    if isinstance(config, RcnnConfig) or config.bottleneck_at == "layer1":
        quarter += ["bottleneck", "restored"]
    at_quarter = cut in quarter
    margin = 4 if at_quarter and cut == "bottleneck" else 0
    stride = 4 if at_quarter else (16 if isinstance(config, DetrConfig) and config.dilation else 32)
    if preprocess.pixel_size is not None:
        height, width = (-(-side // stride) + margin for side in preprocess.pixel_size)
        return height * width
    if isinstance(config, RcnnConfig):
        height, width = preprocess.padded((preprocess.short_side, preprocess.max_long_side))
        return (height // stride + margin) * (width // stride + margin)
    return max_cells(preprocess.short_side, preprocess.max_long_side, stride, margin)
