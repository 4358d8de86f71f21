"""Everything that decides a training, as TOML; the presets are `launch/configs/train-*.toml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from ..models.detr import DetrConfig
from ..models.rcnn_config import RcnnConfig
from ..pipeline.errors import ConfigError
from ..stages.scenery.classes import CLASSES as SCENE_CLASSES
from .learner import Assistance

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class StrictModel(pydantic.BaseModel):
    """A table of a recipe: unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ModelRecipe(StrictModel):
    """A DETR; fields as in `DetrConfig`, but for the classes, which the data has."""

    family: Literal["detr"] = "detr"
    depth: int = 50
    dilation: bool = False
    width: int = 64
    num_queries: int = 100
    d_model: int = 256
    heads: int = 8
    ffn: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    weights: str = ""
    """Safetensors of the whole detector to begin with; normalisation stays frozen then. Empty: from random values."""

    def config(self, num_classes: int) -> DetrConfig:
        """For that many classes."""
        norm: Literal["frozen", "batch"] = "frozen" if self.weights else "batch"
        return DetrConfig(num_classes=num_classes, norm=norm, **self.model_dump(exclude={"family", "weights"}))


class RcnnRecipe(StrictModel):
    """A Faster R-CNN; fields as in `RcnnConfig`, but for the classes, which the data has, and the last three."""

    family: Literal["rcnn"]
    depth: int = 50
    width: int = 64
    fpn: int = 256
    box_head: int = 1024
    anchor: int = 32
    num_proposals: int = 1000
    finest_level: int = 2
    weights: str = ""
    """As a DETR's; torchvision's published ones too."""
    num_anchors: int = pydantic.Field(default=256, ge=2)
    """Of each image, that are learnt from in a step."""
    num_regions: int = pydantic.Field(default=512, ge=4)
    """The same of the proposals."""

    def config(self, num_classes: int) -> RcnnConfig:
        """For that many classes, the background included."""
        norm: Literal["frozen", "batch"] = "frozen" if self.weights else "batch"
        architecture = self.model_dump(exclude={"family", "weights", "num_anchors", "num_regions"})
        return RcnnConfig(num_classes=num_classes, norm=norm, **architecture)


def _family_of(values: Any) -> Any:
    """That of a table or of what one became; a DETR where it says nothing."""
    return values.get("family", "detr") if isinstance(values, Mapping) else getattr(values, "family", "detr")


DetectorRecipe = Annotated[
    Annotated[ModelRecipe, pydantic.Tag("detr")] | Annotated[RcnnRecipe, pydantic.Tag("rcnn")],
    pydantic.Discriminator(_family_of, custom_error_type="family", custom_error_message="family must be detr or rcnn"),
]
"""The detector, by `family`: detr or rcnn."""


class DataRecipe(StrictModel):
    """Where images come from: `scenes`, made on the fly, or a folder in COCO's layout (`coco_images.py`)."""

    train: str = "scenes"
    validation: str = "scenes"
    """For `scenes` the test split, which shares no object, ground or paint with the training split."""
    images_per_epoch: int = pydantic.Field(default=2000, ge=1)
    """Scenes only: every epoch has new ones. A folder is passed through as a whole."""
    validation_images: int = pydantic.Field(default=200, ge=1)
    """The first so many."""
    flip: bool = True
    """Mirror every other image."""
    crop: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Chance of a random part instead of the whole image."""
    colour: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Brightness, contrast and the colours' gains vary by up to this share."""
    workers: int = pydantic.Field(default=2, ge=0)
    """Processes that make and load images; the result does not depend on it."""


class AssistanceRecipe(StrictModel):
    """Accelerations of a DETR, as in `Assistance`."""

    query_groups: int = pydantic.Field(default=1, ge=1)
    denoising_groups: int = pydantic.Field(default=0, ge=0)
    dense: bool = False
    anchors: bool = False

    def assistance(self) -> Assistance:
        """For the learner."""
        return Assistance(**self.model_dump())


class OptimiserRecipe(StrictModel):
    """AdamW; the defaults are DETR's (Carion et al. 2020, section A.4)."""

    lr: float = pydantic.Field(default=1e-4, gt=0)
    backbone_lr: float = pydantic.Field(default=1e-5, ge=0)
    weight_decay: float = pydantic.Field(default=1e-4, ge=0)
    clip_norm: float = pydantic.Field(default=0.1, gt=0)
    """The gradient's norm is scaled down to this."""
    warm_up_steps: int = pydantic.Field(default=0, ge=0)
    """At the begin of every phase, over which the rates rise."""
    hold: float = pydantic.Field(default=0.67, ge=0, le=1)
    """Share of all steps before the rate falls."""
    decay: Literal["step", "linear", "cosine"] = "step"
    """After that: to a tenth at once, or gradually towards zero at the end."""
    ema_decay: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Of the averaged weights, which are then what is evaluated and exported; 0: none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass; the weights are float32."""


class Phase(StrictModel):
    """Some epochs at one size of the network's input."""

    epochs: int = pydantic.Field(ge=1)
    size: tuple[int, int]
    """Height and width, pixels."""
    batch_size: int = pydantic.Field(default=16, ge=1)
    dense_only: bool = False
    """Only backbone and projection learn, by the dense loss: a start that takes a third of the time per image."""


class Recipe(StrictModel):
    """A training."""

    name: str
    """What the detector is called afterwards."""
    seed: int = pydantic.Field(default=0, ge=0)
    model: DetectorRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    assistance: AssistanceRecipe = AssistanceRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()
    phases: tuple[Phase, ...] = pydantic.Field(min_length=1)
    evaluate_every_epochs: int = pydantic.Field(default=1, ge=1)
    checkpoint_every_s: float = pydantic.Field(default=180.0, ge=0)
    """Besides the one after each epoch."""

    @staticmethod
    def load(path: Path) -> Recipe:
        """Read a TOML file. Raises ConfigError: not readable, not TOML, unknown keys, values out of range."""
        try:
            return Recipe.check(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
        except OSError as error:
            raise ConfigError(
                f"the recipe {path} cannot be read ({error.strerror}); give --config a TOML file"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error

    @staticmethod
    def check(values: object, where: str) -> Recipe:
        """From plain values. Raises ConfigError naming `where` and the first key that does not fit."""
        try:
            recipe = Recipe.model_validate(values)
            recipe.model.config(len(SCENE_CLASSES))  # says what cannot be built before any image is read
            if recipe.model.family != "detr" and recipe.assistance != AssistanceRecipe():
                raise ConfigError(f"{where}: assistance is for a DETR; leave it out for an R-CNN")
            if any(phase.dense_only for phase in recipe.phases) and not recipe.assistance.dense:
                raise ConfigError(f"{where}: a phase is dense_only, which needs assistance.dense = true")
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            # pydantic names the member of a union too.
            path = [part for number, part in enumerate(first["loc"]) if number != 1 or first["loc"][0] != "model"]
            key = ".".join(map(str, path))
            raise ConfigError(f"{where}: {key}: {first['msg']}") from error
        return recipe

    @property
    def num_epochs(self) -> int:
        """Of all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input in the last phase, which is the finished detector's."""
        return self.phases[-1].size

    def with_epochs(self, num_epochs: int) -> Recipe:
        """The same with the last phase longer or shorter. Raises ConfigError where nothing would be left of it."""
        last = self.phases[-1]
        epochs = num_epochs - self.num_epochs + last.epochs
        if epochs < 1:
            raise ConfigError(
                f"{num_epochs} epochs end before the last phase begins; give at least {self.num_epochs - last.epochs + 1}"
            )
        phases = (*self.phases[:-1], last.model_copy(update={"epochs": epochs}))
        return self.model_copy(update={"phases": phases})

    def with_data(self, changes: Mapping[str, str]) -> Recipe:
        """The same on other images: `train` or `validation` as in `DataRecipe`."""
        return self.model_copy(update={"data": self.data.model_copy(update=dict(changes))})
