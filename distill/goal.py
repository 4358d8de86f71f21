"""What the checkpoint of a student is chosen by: its boxes, its masks or its keypoints."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Literal

from ..bench.accuracy import IouType
from ..bench.pictures import Pictures
from ..pipeline.errors import ConfigError
from ..stages.bundle import PostProcess

Goal = Literal["box", "mask", "keypoint"]
KEYS: Mapping[Goal, str] = {"box": "mAP", "mask": "masks.mAP", "keypoint": "keypoints.mAP"}
"""Goal -> where the record of an epoch has it, as `value_at` reads."""
_KINDS: Mapping[Goal, IouType] = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
_FAMILIES: Mapping[Goal, str] = {"box": "detector", "mask": "Mask R-CNN", "keypoint": "Keypoint R-CNN"}


def value_at(record: Mapping[str, Any], key: str) -> float | None:
    """What `record` has at a key, dotted where it is in a table; None where it has nothing there."""
    *tables, last = key.split(".")
    for name in tables:
        record = record.get(name, {})
    value: float | None = record.get(last)
    return value


def has_shapes(spec: PostProcess) -> bool:
    """Whether such a detector gives more than boxes."""
    return spec.masks or spec.num_keypoints > 0


def require_goal(goal: Goal, spec: PostProcess, name: str) -> None:
    """Raises ConfigError where the detector called `name` does not give what it is to be chosen by."""
    if {"box": True, "mask": spec.masks, "keypoint": spec.num_keypoints > 0}[goal]:
        return
    raise ConfigError(
        f"{name} gives no {goal}s to choose a checkpoint by; give a {_FAMILIES[goal]}, or leave the goal at box"
    )


def require_truth(goal: Goal, spec: PostProcess, pictures: Pictures, num_images: int, what: str) -> None:
    """Look at the first picture with an object, so that what is missing is said before the training and not after an epoch.

    `what` names the pictures. Raises ConfigError: no masks or keypoints, where these are the goal; other keypoints than the
    detector's.
    """
    every = (pictures.picture(index, 0) for index in range(min(num_images, len(pictures))))
    first = next((picture for picture in every if len(picture.labels)), None)
    if first is None:
        return
    has = {"box": True, "mask": first.masks is not None, "keypoint": first.keypoints is not None}
    if not has[goal]:
        raise _missing(goal, what)
    if spec.num_keypoints and first.keypoints is not None and first.keypoints.shape[1] != spec.num_keypoints:
        raise ConfigError(
            f"the detector finds {spec.num_keypoints} keypoints of an object and the {what} images have "
            f"{first.keypoints.shape[1]}; give images with the same keypoints"
        )


def require_judged(goal: Goal, found: Container[IouType], what: str) -> None:
    """Raises ConfigError where the evaluation of the pictures called `what` could not judge by `goal`: a later picture lacks
    what the first one has."""
    if _KINDS[goal] not in found:
        raise _missing(goal, what)


def _missing(goal: Goal, what: str) -> ConfigError:
    return ConfigError(
        f"not all {what} images have {goal}s to choose a checkpoint by; give annotations with them, or leave the goal at box"
    )
