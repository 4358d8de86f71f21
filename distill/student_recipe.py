"""Everything that decides a distillation, as TOML; the presets are `launch/configs/distill-*.toml`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from ..models.compressor import CompressorKind
from ..models.slimmable import Configurable, check_widths
from ..pipeline.errors import ConfigError
from .goal import Goal
from .recipe import DataRecipe, StrictModel

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Task = Literal["sskd", "encoder", "hnd", "ghnd", "slimmable", "filter"]
"""Stage by stage; fewer encoder layers; a bottleneck by its own output alone, or by what follows it too, or by that at several
widths; a neural filter."""
TASKS: tuple[Task, ...] = ("sskd", "encoder", "hnd", "ghnd", "slimmable", "filter")
NUM_STAGES = 4


class StudentModel(StrictModel):
    """In what the student differs from its teacher; what its task does not name stays as it is."""

    depth: int = 34
    """sskd: of the ResNet."""
    width: int = pydantic.Field(default=0, ge=0)
    """sskd: channels of its stem; 0: the teacher's."""
    encoder_layers: int = pydantic.Field(default=1, ge=1)
    """encoder: how many are left."""
    bottleneck: int = pydantic.Field(default=3, ge=1)
    """hnd, ghnd, slimmable: channels on the wire, at width 1."""
    bottleneck_at: Literal["layer1", "projection", "p3"] = "layer1"
    """hnd, ghnd, slimmable: inside the ResNet's layer1, behind a DETR's projection, or behind an EfficientDet's P3."""
    layer_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """ghnd, slimmable: of layer1 to layer4; behind the projection, of the projection and the encoder's memory (the first two); of
    an EfficientDet's P3 to P5 (the first three)."""
    widths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """slimmable: fractions of the channels that the one set of weights serves, the largest being 1."""
    configurable: Configurable = "bandwidth"
    """slimmable: bandwidth, only what is next to the wire follows the width; computation, the encoder too."""
    num_widths: int = pydantic.Field(default=4, ge=2)
    """slimmable: so many in each step, the narrowest and the widest always among them (the sandwich rule's N)."""
    recalibrate_images: int = pydantic.Field(default=0, ge=0)
    """slimmable: at the end the statistics of every width are taken anew over so many images, into another checkpoint; 0: not."""
    compressor: CompressorKind = "mbconv"
    """EfficientDet: what lies before and behind the wire."""
    fresh_encoder: bool = False
    """EfficientDet: everything up to P3 begins with random weights instead of the teacher's."""
    drop_path: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """EfficientDet: chance that the last residual block of the student is left out in training, less for the earlier ones."""

    @pydantic.field_validator("layer_weights")
    @classmethod
    def _check_weights(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not 2 <= len(weights) <= NUM_STAGES or min(weights) < 0 or not any(weights):
            raise ValueError("give 2 to 4 weights of 0 or more, at least one above 0")
        return weights

    @pydantic.field_validator("widths")
    @classmethod
    def _check_widths(cls, widths: tuple[float, ...]) -> tuple[float, ...]:
        try:
            ordered = check_widths(widths)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if len(ordered) < 2:
            raise ValueError("give at least two widths, such as 0.25 and 1; a single one is 'splitrail distill ghnd'")
        return ordered


class FilterRecipe(StrictModel):
    """The neural filter's truth and threshold."""

    labels: Literal["boxes", "keypoints"] = "boxes"
    """A frame has an object where it has a box, or a box with enough visible keypoints."""
    min_keypoints: int = pydantic.Field(default=1, ge=1)
    """Visible ones (COCO's 2) that an object must have to count."""
    recall: float = pydantic.Field(default=0.98, gt=0, le=1)
    """Share of the validation frames with objects that must pass: it decides the threshold."""
    threshold: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Given, it holds instead; 0.1 is the published one."""


class StudentData(DataRecipe):
    """Images of a distillation, and those that are only looked at when it is over."""

    validation: str = "scenes"
    """Chooses the checkpoint. For `scenes` the training split with another seed."""
    held_out: str = "scenes"
    """The finished student is judged on it, which decides nothing. For `scenes` the test split, which shares no object, ground or
    paint with the other two."""
    held_out_images: int = pydantic.Field(default=500, ge=1)
    empty: float = pydantic.Field(default=0.1, ge=0, le=1)
    """Scenes only: share of images without an object."""
    part: int = pydantic.Field(default=0, ge=0)
    """Of a folder: each epoch shows the next so many of its images, beginning again at its end; 0: all of them."""


class StudentOptimiser(StrictModel):
    """The defaults are those of HND and GHND (Matsubara and Levorato 2020): Adam at 1e-3."""

    method: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = pydantic.Field(default=1e-3, gt=0)
    momentum: float = pydantic.Field(default=0.9, ge=0, lt=1)
    """sgd only."""
    weight_decay: float = pydantic.Field(default=0.0, ge=0)
    drops: tuple[int, ...] = ()
    """Epochs of a phase after which the rate falls."""
    drop_to: float = pydantic.Field(default=0.1, gt=0, lt=1)
    """To this share of what it was."""
    decay: Literal["none", "cosine"] = "none"
    """Besides, over each phase towards zero."""
    warm_up_epochs: float = pydantic.Field(default=0.0, ge=0)
    """At the begin of each phase, over which the rate rises linearly."""
    clip_norm: float = pydantic.Field(default=0.0, ge=0)
    """The gradient's norm is scaled down to this; 0: never."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass; the weights are float32."""

    @pydantic.field_validator("drops")
    @classmethod
    def _check_drops(cls, drops: tuple[int, ...]) -> tuple[int, ...]:
        if list(drops) != sorted(set(drops)) or any(drop < 1 for drop in drops):
            raise ValueError("give epochs from 1 on, each later than the one before")
        return drops

    def factor(self, step: int, steps_per_epoch: int, num_epochs: int) -> float:
        """What the rate is multiplied with at step number `step`, from 0, of a phase of `num_epochs`; in (0, 1]."""
        factor = self.drop_to ** sum(step >= drop * steps_per_epoch for drop in self.drops)
        warm_up = round(self.warm_up_epochs * steps_per_epoch)
        factor *= min(1.0, (step + 1) / (warm_up + 1))
        if self.decay == "cosine":
            factor *= (1 + math.cos(math.pi * step / (steps_per_epoch * num_epochs))) / 2
        return factor


class StudentRecipe(StrictModel):
    """A distillation."""

    task: Task
    teacher: str
    """A checkpoint or the folder of a training, a bundle with weights for torch, or a detector's name."""
    weights: str = ""
    """Of a teacher that is named: a file, a folder or "hub"."""
    name: str = ""
    """What the student is called afterwards; empty: the teacher's name and what was done."""
    seed: int = pydantic.Field(default=0, ge=0)
    epochs: tuple[int, ...] = (1,)
    """sskd: of each of the four stages; else one number."""
    size: tuple[int, int] | None = None
    """Height and width of the network's input; none: the teacher's own."""
    batch_size: int = pydantic.Field(default=4, ge=1)
    student: StudentModel = StudentModel()
    filter: FilterRecipe = FilterRecipe()
    data: StudentData = StudentData()
    optimiser: StudentOptimiser = StudentOptimiser()
    goal: Goal = "box"
    """By whose mAP on the validation images the checkpoint is chosen: the boxes, a Mask R-CNN's masks, a Keypoint R-CNN's
    keypoints. A filter is chosen by its AUC."""
    evaluate_every_epochs: int = pydantic.Field(default=1, ge=1)
    checkpoint_every_s: float = pydantic.Field(default=180.0, ge=0)
    """Besides the one after each epoch."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> StudentRecipe:
        wanted = NUM_STAGES if self.task == "sskd" else 1
        if len(self.epochs) != wanted or min(self.epochs) < 1:
            raise ValueError(f"epochs: {self.task} takes {wanted} numbers of epochs, of 1 or more")
        if self.task == "filter" and self.goal != "box":
            raise ValueError(f"goal: a filter is chosen by its AUC and not by {self.goal}s; leave the goal out")
        if self.filter.labels == "keypoints" and self.data.crop:
            raise ValueError(
                "data.crop: a part of an image has not all of its keypoints; leave it at 0 for such labels"
            )
        return self

    @staticmethod
    def load(path: Path, task: Task, changes: Mapping[str, Any]) -> StudentRecipe:
        """Read a TOML file for `task`; `changes` are values that hold instead, by dotted key.

        Raises ConfigError: not readable, not TOML, unknown keys, values out of range, another task.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"the recipe {path} cannot be read ({error.strerror}); give --config a TOML file"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        of_file = raw.setdefault("task", task)
        if of_file != task:
            raise ConfigError(f"{path} is a recipe for {of_file}; give --config one for {task}")
        for key, value in changes.items():
            table: Any = raw
            *path_to, last = key.split(".")
            for name in path_to:
                table = table.setdefault(name, {})
            # Anything but a table is refused with its name below.
            if isinstance(table, dict):
                table[last] = value
        return StudentRecipe.check(raw, str(path))

    @staticmethod
    def check(values: object, where: str) -> StudentRecipe:
        """From plain values. Raises ConfigError naming `where` and the first key that does not fit."""
        try:
            return StudentRecipe.model_validate(values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"{where}: {key}: {message}" if key else f"{where}: {message}") from error

    @property
    def num_epochs(self) -> int:
        """Of all phases."""
        return sum(self.epochs)

    def with_epochs(self, num_epochs: int) -> StudentRecipe:
        """The same with so many epochs in each phase, and drops of the rate at the same shares of them."""
        drops = tuple(
            dict.fromkeys(max(1, round(drop * num_epochs / max(self.epochs))) for drop in self.optimiser.drops)
        )
        changed = self.model_dump() | {"epochs": (num_epochs,) * len(self.epochs)}
        changed["optimiser"] |= {"drops": drops}
        return StudentRecipe.check(changed, "--epochs")
