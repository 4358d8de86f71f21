"""A folder of images with COCO annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..pipeline.errors import UsageError
from ..stages.image import Image
from .accuracy import Truth
from .coco_shapes import keypoints_of_annotations, masks_of_annotations
from .pictures import Picture

ANNOTATIONS = "annotations.json"
IMAGES = "images"


class DataError(UsageError):
    """Images or annotations that are missing or do not fit each other."""


class CocoPictures:
    """`FOLDER/annotations.json` and the images it names, in `FOLDER/images` or in `FOLDER` itself.

    A label is the category's id, as in DETR; ids in between that no category has are the class "N/A". Crowds are in
    `Picture.ignored_boxes`; boxes without area are left out. `with_shapes` asks for masks and keypoints, where every annotation
    has them.

    Raises DataError: annotations missing, not COCO's, with images that are not there, with boxes outside their image, of
    unknown images or categories; or of other classes than `classes`.
    """

    def __init__(self, folder: str | Path, classes: Sequence[str] | None = None, *, with_shapes: bool = False) -> None:
        root = Path(folder).expanduser()
        path = root / ANNOTATIONS
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"there are no annotations at {path} ({error.strerror}); give a folder with {ANNOTATIONS} in COCO's format"
            ) from error
        except ValueError as error:
            raise DataError(f"{path} is not JSON ({error}); give annotations in COCO's format") from error
        self._folder = root / IMAGES if (root / IMAGES).is_dir() else root
        self._files: list[Path] = []
        self._by_name: dict[str, int] = {}
        self._boxes: list[list[list[float]]] = []
        self._labels: list[list[int]] = []
        self._crowd: list[list[bool]] = []
        self._with_shapes = with_shapes
        self._entries: list[list[dict[str, Any]]] = []
        self._num_keypoints = 0
        try:
            self.classes = _class_names(content["categories"], path)
            self._read(content, path)
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{path} is not COCO's format: it lacks or misplaces {error}; see https://cocodataset.org/#format-data"
            ) from error
        if classes is not None and tuple(classes) != self.classes:
            raise DataError(
                f"{path} has {len(self.classes)} classes ({_few(self.classes)}) where the detector has {len(classes)} "
                f"({_few(classes)}); give annotations of the detector's classes"
            )

    def __len__(self) -> int:
        return len(self._files)

    def picture(self, index: int, epoch: int) -> Picture:
        """The same in every epoch. Raises DataError for an image that cannot be read or that its boxes do not fit."""
        image = cv2.imread(str(self._files[index]), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{self._files[index]} cannot be read as an image; repair or remove it and its annotations")
        checked: Image = image.astype(np.uint8, copy=False)
        height, width = checked.shape[:2]
        boxes = np.array(self._boxes[index], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        # Annotations are rounded, so a box may stand a pixel out.
        if len(boxes) and (boxes.min() < -1 or (boxes[:, 2:] > np.array([width, height]) + 1).any()):
            raise DataError(
                f"the annotations have a box outside {self._files[index].name} ({height}x{width}); they are of other images"
            )
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        labels, crowd = np.array(self._labels[index], np.int32), np.array(self._crowd[index], np.bool_)
        picture = Picture(checked, boxes[~crowd], labels[~crowd], boxes[crowd], labels[crowd])
        if not self._with_shapes:
            return picture
        entries = [entry for entry in self._entries[index] if not entry.get("iscrowd")]
        ignored = [entry for entry in self._entries[index] if entry.get("iscrowd")]
        areas = [entry.get("area") for entry in entries]
        return picture._replace(
            masks=masks_of_annotations(entries, (height, width)),
            ignored_masks=masks_of_annotations(ignored, (height, width)),
            keypoints=keypoints_of_annotations(entries, self._num_keypoints) if self._num_keypoints else None,
            areas=None if None in areas else np.array(areas, np.float32),
        )

    def truth_of(self, name: str) -> Truth:
        """Of the image with that file name. Raises DataError when there is none."""
        if name in self._by_name:
            return Truth(*self.picture(self._by_name[name], 0)[1:])
        raise DataError(f"the annotations have no image named {name!r}; give those of the images that were run")

    def _read(self, content: dict[str, list[dict[str, object]]], path: Path) -> None:
        numbers: dict[object, int] = {}
        for number, entry in enumerate(content["images"]):
            numbers[entry["id"]] = number
            self._files.append(self._folder / str(entry["file_name"]))
        if not self._files:
            raise DataError(f"{path} names no image; give annotations of at least one")
        missing = [file for file in self._files if not file.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(self._files)} images of {path} are missing, the first being {missing[0]}; "
                f"put them there, or give the annotations of the images that are"
            )
        self._by_name = {file.name: number for number, file in enumerate(self._files)}
        self._boxes = [[] for _ in self._files]
        self._labels = [[] for _ in self._files]
        self._crowd = [[] for _ in self._files]
        self._entries = [[] for _ in self._files]
        known = {label for label, name in enumerate(self.classes) if name != "N/A"}
        for entry in content["annotations"]:
            box = [float(value) for value in entry["bbox"]]  # type: ignore[attr-defined]
            label = int(entry["category_id"])  # type: ignore[call-overload]
            if entry["image_id"] not in numbers or label not in known or len(box) != 4:
                raise DataError(
                    f"annotation {entry.get('id')} of {path} has image {entry['image_id']}, category {label} and a box of "
                    f"{len(box)} numbers, which does not fit the images and categories there; repair the file"
                )
            if box[2] > 0 and box[3] > 0:
                number = numbers[entry["image_id"]]
                self._boxes[number].append(box)
                self._labels[number].append(label)
                self._crowd[number].append(bool(entry.get("iscrowd")))
                if self._with_shapes:
                    self._entries[number].append(entry)
                    points = entry.get("keypoints")
                    if isinstance(points, list):
                        self._num_keypoints = max(self._num_keypoints, len(points) // 3)


def _class_names(categories: list[dict[str, object]], path: Path) -> tuple[str, ...]:
    by_id = {int(category["id"]): str(category["name"]) for category in categories}  # type: ignore[call-overload]
    if not by_id or min(by_id) < 0:
        raise DataError(f"{path} has no categories with ids of 0 or more; repair the file")
    return tuple(by_id.get(label, "N/A") for label in range(max(by_id) + 1))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
