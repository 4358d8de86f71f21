"""The detectors that have a name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..pipeline.errors import ConfigError
from .coco_classes import COCO_CLASSES
from .detr import DetrConfig

DETECTORS = {
    "detr-resnet-18": DetrConfig(depth=18),
    "detr-resnet-34": DetrConfig(depth=34),
    "detr-resnet-50": DetrConfig(depth=50),
    "detr-resnet-101": DetrConfig(depth=101),
    "detr-resnet-50-dc5": DetrConfig(depth=50, dilation=True),
    "detr-resnet-101-dc5": DetrConfig(depth=101, dilation=True),
}
OVERRIDES = ("num_classes", "num_queries", "encoder_layers", "decoder_layers", "d_model", "heads", "ffn", "width")
"""What of a named detector may be chosen otherwise."""


def config_of(detector: str, overrides: Mapping[str, int] | None = None) -> DetrConfig:
    """The configuration of a named detector with some of `OVERRIDES` replaced. Raises ConfigError for an unknown name."""
    if detector not in DETECTORS:
        raise ConfigError(f"there is no detector {detector!r}; choose among {', '.join(DETECTORS)}")
    chosen: dict[str, Any] = dict(overrides or {})
    unknown = [name for name in chosen if name not in OVERRIDES]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} cannot be chosen for {detector}; only {', '.join(OVERRIDES)} can")
    return dataclasses.replace(DETECTORS[detector], **chosen)


def class_names(num_classes: int) -> tuple[str, ...]:
    """COCO's names where there are as many classes as COCO ids, else "class 0", "class 1", ..."""
    if num_classes == len(COCO_CLASSES):
        return COCO_CLASSES
    return tuple(f"class {label}" for label in range(num_classes))
