"""How right a detector is in one setting: a row of a bundle's table."""

from __future__ import annotations

from typing import Literal

import pydantic

from .wire_type import WireType


class MeasuredAccuracy(pydantic.BaseModel):
    """What the detector reached with one setting. A precision that was not measured is None."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    width: float = 1.0
    way: Literal["split", "local", "offload"] = "split"
    """split: tensors travel as `wire`. local: the edge does everything. offload: the picture travels as JPEG."""
    jpeg_quality: int | None = None
    """Of an offload; None elsewhere."""
    wire: WireType
    """Of a split; fp32 elsewhere."""
    filter_threshold: float | None = None
    """None: without the filter."""
    data: str
    """Images it was judged on, one line."""
    num_images: int
    bytes_per_frame: float
    """Mean payload of what travels, bytes: features, a JPEG, or detections; of an empty frame 0."""
    box_map: float | None = None
    """mAP@50:95 of boxes, in [0, 1]; the same of masks and keypoints below."""
    box_map_50: float | None = None
    """mAP@50 of boxes, in [0, 1]."""
    mask_map: float | None = None
    keypoint_map: float | None = None

    @property
    def setting(self) -> tuple[object, ...]:
        """What tells it from other rows."""
        return self.way, self.width, self.wire, self.jpeg_quality, self.filter_threshold
