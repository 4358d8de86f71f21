"""The three sets of images of a distillation, which share none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..bench.coco_pictures import CocoPictures
from ..bench.pictures import Picture, Pictures, ScenePictures
from ..pipeline.errors import ConfigError
from ..stages.scene_source import SceneSettings
from ..stages.scenery.tones import Split
from .student_recipe import StudentRecipe

_VALIDATION_SEED = 1000
"""Added to the recipe's, for scenes to choose a checkpoint by."""
_VISIBLE = 2


class PictureSets(NamedTuple):
    """What is trained on, what chooses a checkpoint, and what is looked at once it is over."""

    training: Pictures
    validation: Pictures
    held_out: Pictures


def picture_sets(recipe: StudentRecipe, classes: tuple[str, ...], size: tuple[int, int] | None) -> PictureSets:
    """Those of `recipe` for a detector of `classes`; scenes have the network's `size`, where that is fixed.

    Scenes to choose a checkpoint by are of the training split, those held out of the test split and the same for every seed of
    the recipe, as `splitrail evaluate` shows them. Raises ConfigError, DataError.
    """
    data = recipe.data
    usual = SceneSettings()
    by_keypoints = recipe.task == "filter" and recipe.filter.labels == "keypoints"

    def pictures(what: str, seed: int, split: Split, num_images: int, size: tuple[int, int]) -> Pictures:
        if what != "scenes":
            # Annotations have no background, which is label 0 of an R-CNN.
            named = tuple("N/A" if name == "background" else name for name in classes)
            return CocoPictures(what, named, with_shapes=by_keypoints)
        scenes = ScenePictures(size, seed, split, num_images, usual.objects, data.empty, with_shapes=by_keypoints)
        if classes == ("background", *scenes.classes):
            return BackgroundFirst(scenes)
        if scenes.classes != classes:
            raise ConfigError(
                f"the teacher has {len(classes)} classes, which are not those of scenes; give --data a folder"
            )
        return scenes

    folders = [what for what in (data.train, data.validation, data.held_out) if what != "scenes"]
    if len(set(folders)) < len(folders):
        raise ConfigError(
            "training, validation and held-out images must not be the same; give --data, --validation and --held-out "
            "a folder each"
        )
    sets = PictureSets(
        pictures(data.train, recipe.seed, "train", data.images_per_epoch, size or usual.size),
        pictures(data.validation, recipe.seed + _VALIDATION_SEED, "train", data.validation_images, size or usual.size),
        pictures(data.held_out, usual.seed, usual.split, data.held_out_images, usual.size),
    )
    if by_keypoints:
        sets = PictureSets(*(KeypointObjects(each, recipe.filter.min_keypoints) for each in sets))
    return sets


@dataclass
class BackgroundFirst:
    """Pictures for an R-CNN, whose label 0 is the background: all labels are one higher."""

    pictures: Pictures

    def __post_init__(self) -> None:
        self.classes = ("background", *self.pictures.classes)

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        picture = self.pictures.picture(index, epoch)
        return picture._replace(labels=picture.labels + 1, ignored_labels=picture.ignored_labels + 1)


@dataclass
class KeypointObjects:
    """Pictures without the objects that have too few visible keypoints."""

    pictures: Pictures
    min_keypoints: int

    def __post_init__(self) -> None:
        self.classes = self.pictures.classes

    def __len__(self) -> int:
        return len(self.pictures)

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`. Raises ConfigError where the annotations have no keypoints."""
        picture = self.pictures.picture(index, epoch)
        if picture.keypoints is None and not len(picture.labels):
            return picture
        if picture.keypoints is None:
            raise ConfigError("the annotations have no keypoints; give data with them, or leave the labels at boxes")
        kept = (picture.keypoints[:, :, 2] == _VISIBLE).sum(axis=1) >= self.min_keypoints
        return Picture(picture.image, picture.boxes[kept], picture.labels[kept])
