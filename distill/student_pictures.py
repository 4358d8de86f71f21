"""The three sets of images of a distillation, which share none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..bench.coco_pictures import CocoPictures
from ..bench.pictures import Picture, Pictures, ScenePictures
from ..pipeline.errors import ConfigError
from ..stages.scene_source import SceneSettings
from ..stages.scenery.tones import Split
from .background import labelled_for
from .student_recipe import StudentRecipe

_VALIDATION_SEED = 1000
"""Added to the recipe's, for scenes to choose a checkpoint by."""
_VISIBLE = 2


class PictureSets(NamedTuple):
    """What is trained on, what chooses a checkpoint, and what is looked at once it is over."""

    training: Pictures
    validation: Pictures
    held_out: Pictures


def picture_sets(
    recipe: StudentRecipe, classes: tuple[str, ...], size: tuple[int, int] | None, *, with_shapes: bool = False
) -> PictureSets:
    """Those of `recipe` for a detector of `classes`; scenes have the network's `size`, where that is fixed.

    Scenes to choose a checkpoint by are of the training split, those held out of the test split and the same for every seed of
    the recipe, as `splitrail evaluate` shows them. `with_shapes`: what a student is judged on has masks and keypoints, where its
    annotations do. Raises ConfigError, DataError.
    """
    data = recipe.data
    usual = SceneSettings()
    by_keypoints = recipe.task == "filter" and recipe.filter.labels == "keypoints"

    # No student learns from shapes, and a filter only from keypoints.
    judged = by_keypoints or (with_shapes and recipe.task != "filter")

    def pictures(what: str, seed: int, split: Split, num_images: int, size: tuple[int, int], shapes: bool) -> Pictures:
        found: Pictures
        if what == "scenes":
            found = ScenePictures(size, seed, split, num_images, usual.objects, data.empty, with_shapes=shapes)
        else:
            found = CocoPictures(what, with_shapes=shapes)
        labelled = labelled_for(classes, found)
        if labelled.classes != classes:
            of_images, of_teacher = len(labelled.classes), len(classes)
            raise ConfigError(
                f"the teacher has {of_teacher} classes, which are not the {of_images} of {what}; give images of its classes, "
                f"--data FOLDER and the like"
            )
        return labelled

    # Resolved, so that another spelling or a link is seen to be the same folder.
    sources = (data.train, data.validation, data.held_out)
    folders = [Path(what).expanduser().resolve() for what in sources if what != "scenes"]
    if len(set(folders)) < len(folders):
        raise ConfigError(
            "training, validation and held-out images must not be the same; give --data, --validation and --held-out "
            "a folder each"
        )
    network = size or usual.size
    validation_seed = recipe.seed + _VALIDATION_SEED
    training = pictures(data.train, recipe.seed, "train", data.images_per_epoch, network, by_keypoints)
    sets = PictureSets(
        PartByPart(training, data.part) if data.train != "scenes" and data.part else training,
        pictures(data.validation, validation_seed, "train", data.validation_images, network, judged),
        pictures(data.held_out, usual.seed, usual.split, data.held_out_images, usual.size, judged),
    )
    if by_keypoints:
        sets = PictureSets(*(KeypointObjects(each, recipe.filter.min_keypoints) for each in sets))
    return sets


@dataclass
class PartByPart:
    """Pictures of which each epoch shows the next `num_images`, beginning again at the end."""

    pictures: Pictures
    num_images: int

    def __post_init__(self) -> None:
        self.classes = self.pictures.classes

    def __len__(self) -> int:
        return min(self.num_images, len(self.pictures))

    def picture(self, index: int, epoch: int) -> Picture:
        """See `Pictures.picture`."""
        return self.pictures.picture((epoch * len(self) + index) % len(self.pictures), epoch)


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
