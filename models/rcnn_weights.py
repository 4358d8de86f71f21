"""The published weights of torchvision's R-CNNs, by the detector's name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

from .operators import load_operators
from .weights_error import WeightsError

_PUBLISHED = {
    "faster-rcnn-resnet50": "FasterRCNN_ResNet50_FPN_Weights",
    "mask-rcnn-resnet50": "MaskRCNN_ResNet50_FPN_Weights",
    "keypoint-rcnn-resnet50": "KeypointRCNN_ResNet50_FPN_Weights",
}
"""Detector -> torchvision's name for its weights; the others were never published."""


def published_weights(detector: str) -> Path:
    """The checkpoint in torch's cache, downloaded if it is not there. Raises WeightsError: there is none, or no way to it."""
    if detector not in _PUBLISHED:
        raise WeightsError(f"nobody published weights of {detector}; give --weights FILE")
    load_operators()
    from torchvision.models import get_weight

    url = str(get_weight(f"{_PUBLISHED[detector]}.COCO_V1").url)
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        torch.hub.download_url_to_file(url, str(partial), progress=False)
        expected = re.search(r"-([0-9a-f]{8})\.", file.name)
        if expected and not hashlib.sha256(partial.read_bytes()).hexdigest().startswith(expected[1]):
            partial.unlink()
            raise WeightsError(f"{url} arrived damaged; try again")
        partial.rename(file)
    except OSError as error:
        raise WeightsError(f"{url} cannot be fetched; download it by hand and give --weights FILE") from error
    return file
