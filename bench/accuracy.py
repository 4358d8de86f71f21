"""How right detections are: COCO's mean average precision, by COCO's own code.

Source: Lin et al. 2014 and the evaluation of https://cocodataset.org/#detection-eval, computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..pipeline.errors import UsageError
from ..stages.detections import Detections


class AccuracyError(UsageError):
    """Detections that cannot be judged."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in one image."""

    boxes: npt.NDArray[np.float32]
    """[N, 4] xyxy, pixels."""
    labels: npt.NDArray[np.int32]
    """[N]."""
    ignored_boxes: npt.NDArray[np.float32] | None = None
    """[M, 4] xyxy: need not be found, and detections there of the same class are no mistake (COCO's crowds)."""
    ignored_labels: npt.NDArray[np.int32] | None = None
    """[M]."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Over all images. Precisions are in [0, 1], means over the classes that are in the truth."""

    num_images: int
    num_objects: int
    map: float | None
    """mAP@50:95; None where the truth has no object at all."""
    map_50: float | None
    map_75: float | None
    per_class: Mapping[int, float]
    """Label -> AP@50:95."""
    per_class_50: Mapping[int, float]
    """Label -> AP@50."""

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON values, precisions rounded to five digits."""

        def rounded(value: float | None) -> float | None:
            return None if value is None else round(value, 5)

        return {
            "num_images": self.num_images,
            "num_objects": self.num_objects,
            "mAP": rounded(self.map),
            "mAP@50": rounded(self.map_50),
            "mAP@75": rounded(self.map_75),
            "per_class": {
                classes[label]: {"AP": rounded(value), "AP@50": rounded(self.per_class_50[label])}
                for label, value in self.per_class.items()
            },
        }


def evaluate_boxes(truth: Sequence[Truth], detections: Sequence[Detections], num_classes: int) -> Accuracy:
    """Judge the detections of each image; the best 100 of an image count.

    Raises AccuracyError: as many truths as detections are needed, labels must be below `num_classes`, boxes and scores finite;
    pycocotools is not installed.
    """
    if len(truth) != len(detections):
        raise AccuracyError(
            f"{len(truth)} images have a truth and {len(detections)} have detections; give both for each"
        )
    for index, found in enumerate(detections):
        labels = np.concatenate([found.labels, truth[index].labels])
        if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
            raise AccuracyError(
                f"image {index} has a label {labels.max()} where there are {num_classes} classes; "
                f"evaluate against the truth of the detector's classes"
            )
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise AccuracyError(f"the detections of image {index} are not finite; look for the fault in the detector")
    num_objects = sum(len(each.labels) for each in truth)
    precision = _precision(truth, detections, num_classes) if num_objects else np.full((10, num_classes), np.nan)
    present = [label for label in range(num_classes) if not np.isnan(precision[0, label])]
    by_class = np.nan_to_num(precision)[:, present]
    return Accuracy(
        num_images=len(truth),
        num_objects=num_objects,
        map=float(by_class.mean()) if present else None,
        map_50=float(by_class[0].mean()) if present else None,
        map_75=float(by_class[5].mean()) if present else None,
        per_class={label: float(precision[:, label].mean()) for label in present},
        per_class_50={label: float(precision[0, label]) for label in present},
    )


def _precision(truth: Sequence[Truth], detections: Sequence[Detections], num_classes: int) -> npt.NDArray[np.float64]:
    """[10, num_classes]: average precision at the IoUs 0.5, 0.55, ... 0.95; NaN for a class that the truth does not have."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise AccuracyError("pycocotools is not installed; pip install 'splitrail[bench]'") from error
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (each, found) in enumerate(zip(truth, detections, strict=True)):
        for boxes, labels, crowd in (
            (each.boxes, each.labels, 0),
            (each.ignored_boxes, each.ignored_labels, 1),
        ):
            if boxes is not None and labels is not None:
                annotations += [
                    {**_entry(image, box, label), "id": len(annotations) + number, "iscrowd": crowd}
                    for number, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True), 1)
                ]
        columns = (found.boxes.tolist(), found.labels.tolist(), found.scores.tolist())
        results += [{**_entry(image, box, label), "score": score} for box, label, score in zip(*columns, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        wanted = COCO()
        wanted.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": label} for label in range(num_classes)],
            "annotations": annotations,
        }
        wanted.createIndex()
        if results:
            given = wanted.loadRes(results)
        else:
            given = COCO()  # loadRes refuses an empty list
            given.dataset = {**wanted.dataset, "annotations": []}
            given.createIndex()
        evaluation = COCOeval(wanted, given, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU, recall, class, area, number of detections]: all areas, the best 100.
    precision = np.array(evaluation.eval["precision"][:, :, :, 0, -1], np.float64)
    precision[precision < 0] = np.nan
    mean: npt.NDArray[np.float64] = precision.mean(axis=1)
    return mean


def _entry(image: int, box: list[float], label: int) -> dict[str, Any]:
    left, top, right, bottom = box
    sides = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": label, "bbox": sides, "area": sides[2] * sides[3]}
