"""What a user asks for about the suppression of overlaps: an IoU, or none at all."""

from __future__ import annotations

from typing import Literal

from ..pipeline.errors import ConfigError
from .bundle import PostProcess

NmsIou = float | Literal["off"]
"""The IoU in (0, 1] above which the worse of two boxes of one class goes, or none goes."""


def parse_nms_iou(value: object) -> NmsIou:
    """From an option or a configuration: a number or its text, or `off`. Raises ConfigError."""
    if value == "off":
        return "off"
    try:
        iou = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except ValueError:
        iou = 0.0
    if not 0 < iou <= 1:
        raise ConfigError(f"a largest IoU of {value!r} is neither in (0, 1] nor off; give for instance 0.7")
    return iou


def with_nms(spec: PostProcess, nms_iou: NmsIou | None) -> PostProcess:
    """The same with another suppression of overlaps; None leaves the bundle's own. Raises ConfigError: not a DETR."""
    if nms_iou is None:
        return spec
    if spec.kind != "detr":
        raise ConfigError(
            f"--nms-iou is for a DETR, and this detector ({spec.kind}) suppresses overlaps itself; leave it out"
        )
    return spec.model_copy(update={"nms_iou": None if nms_iou == "off" else nms_iou})
