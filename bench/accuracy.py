"""How right boxes, masks and keypoints are: COCO's mean average precision, by COCO's own code.

Source: Lin et al. 2014 and the evaluation of https://cocodataset.org/#detection-eval, computed by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..pipeline.errors import UsageError
from ..stages.detections import Detections
from ..stages.masks import Masks

IouType = Literal["bbox", "segm", "keypoints"]
"""What of a detection is compared with the truth, in COCO's words."""

SHAPES: Mapping[IouType, str] = {"segm": "masks", "keypoints": "keypoints"}
"""What is judged besides boxes, and its table in JSON."""


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
    masks: Masks | None = None
    """N of them; None where they are not known."""
    ignored_masks: Masks | None = None
    """M of them; None: the boxes."""
    keypoints: npt.NDArray[np.float32] | None = None
    """[N, K, 3] x, y in pixels, and 2 visible, 1 hidden, 0 not labelled; None where they are not known."""
    areas: npt.NDArray[np.float32] | None = None
    """[N] of the object itself, pixels, which says how exact its keypoints must be; None: of its box."""


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
    """`evaluate` of boxes."""
    return evaluate(truth, detections, num_classes, "bbox")


def evaluate_all(truth: Sequence[Truth], detections: Sequence[Detections], num_classes: int) -> dict[IouType, Accuracy]:
    """`evaluate` of boxes, and of masks and keypoints where detections and truth have them."""
    kinds: list[IouType] = ["bbox"]
    if any(found.masks is not None for found in detections) and all(each.masks is not None for each in truth):
        kinds.append("segm")
    if any(found.keypoints is not None for found in detections) and all(each.keypoints is not None for each in truth):
        kinds.append("keypoints")
    return {kind: evaluate(truth, detections, num_classes, kind) for kind in kinds}


def accuracies_json(accuracies: Mapping[IouType, Accuracy], classes: Sequence[str]) -> dict[str, Any]:
    """As JSON values: those of boxes, and under `masks` and `keypoints` the same of these."""
    result = accuracies["bbox"].to_json(classes)
    result |= {SHAPES[kind]: each.to_json(classes) for kind, each in accuracies.items() if kind in SHAPES}
    return result


def evaluate(
    truth: Sequence[Truth], detections: Sequence[Detections], num_classes: int, kind: IouType = "bbox"
) -> Accuracy:
    """Judge the boxes, masks ("segm") or keypoints of each image; the best 100 detections of an image count (20 of keypoints).

    Keypoints are compared by COCO's object keypoint similarity; an object without any labelled one need not be found. Its
    constants are COCO's for 17 keypoints, and the mean of those for each of any other number.

    Raises AccuracyError: as many truths as detections are needed, labels must be below `num_classes`, boxes and scores finite,
    masks or keypoints there and as many as boxes; pycocotools is not installed.
    """
    if len(truth) != len(detections):
        raise AccuracyError(
            f"{len(truth)} images have a truth and {len(detections)} have detections; give both for each"
        )
    for index, (each, found) in enumerate(zip(truth, detections, strict=True)):
        _check(index, each, found, num_classes, kind)
    counted = truth if kind != "keypoints" else [_with_keypoints(each) for each in truth]
    num_objects = sum(len(each.labels) for each in counted)
    precision = _precision(truth, detections, num_classes, kind) if num_objects else np.full((10, num_classes), np.nan)
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


def _check(index: int, truth: Truth, found: Detections, num_classes: int, kind: IouType) -> None:
    labels = np.concatenate([found.labels, truth.labels])
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise AccuracyError(
            f"image {index} has a label {labels.max()} where there are {num_classes} classes; "
            f"evaluate against the truth of the detector's classes"
        )
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise AccuracyError(f"the detections of image {index} are not finite; look for the fault in the detector")
    if kind == "bbox":
        return
    shapes = ("masks", truth.masks, found.masks) if kind == "segm" else ("keypoints", truth.keypoints, found.keypoints)
    for whose, num, of_them in (("truth", len(truth.labels), shapes[1]), ("detections", len(found), shapes[2])):
        if num and (of_them is None or len(of_them) != num):
            raise AccuracyError(
                f"the {whose} of image {index} has {num} objects and {0 if of_them is None else len(of_them)} {shapes[0]}; "
                f"evaluate a detector and a truth that both have {shapes[0]}"
            )
    if kind == "keypoints" and len(truth.labels) and len(found):
        assert truth.keypoints is not None
        assert found.keypoints is not None
        if truth.keypoints.shape[1] != found.keypoints.shape[1]:
            raise AccuracyError(
                f"the detector finds {found.keypoints.shape[1]} keypoints of an object and the truth has "
                f"{truth.keypoints.shape[1]}; evaluate against the truth of the same keypoints"
            )


def _with_keypoints(truth: Truth) -> Truth:
    """Only the objects that keypoints are judged of."""
    if truth.keypoints is None:
        return Truth(truth.boxes[:0], truth.labels[:0])
    labelled = (truth.keypoints[:, :, 2] > 0).any(axis=1)
    return Truth(truth.boxes[labelled], truth.labels[labelled])


def _precision(
    truth: Sequence[Truth], detections: Sequence[Detections], num_classes: int, kind: IouType
) -> npt.NDArray[np.float64]:
    """[10, num_classes]: average precision at the IoUs 0.5, 0.55, ... 0.95; NaN for a class that the truth does not have."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise AccuracyError("pycocotools is not installed; pip install 'splitrail[bench]'") from error
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    images = []
    for image, (each, found) in enumerate(zip(truth, detections, strict=True)):
        size = next((shape.size for shape in (each.masks, found.masks) if shape is not None), (1, 1))
        images.append({"id": image, "height": size[0], "width": size[1]})
        entries = [*_wanted(each, image, kind), *_ignored(each, image, kind)]
        annotations += [{**entry, "id": len(annotations) + number} for number, entry in enumerate(entries, 1)]
        results += _given(found, image, kind)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        wanted = COCO()
        wanted.dataset = {
            "info": {},
            "images": images,
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
        evaluation = COCOeval(wanted, given, kind)
        if kind == "keypoints":
            num_keypoints = next(len(entry["keypoints"]) // 3 for entry in annotations)
            constants = evaluation.params.kpt_oks_sigmas
            if num_keypoints != len(constants):
                evaluation.params.kpt_oks_sigmas = np.full(num_keypoints, constants.mean())
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU, recall, class, area, number of detections]: all areas, the most detections.
    precision = np.array(evaluation.eval["precision"][:, :, :, 0, -1], np.float64)
    precision[precision < 0] = np.nan
    mean: npt.NDArray[np.float64] = precision.mean(axis=1)
    return mean


def _wanted(truth: Truth, image: int, kind: IouType) -> Iterator[dict[str, Any]]:
    """COCO annotations of the objects of an image."""
    for index, (box, label) in enumerate(zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True)):
        entry = {**_entry(image, box, label), "iscrowd": 0}
        if truth.areas is not None:
            entry["area"] = float(truth.areas[index])
        if kind == "segm" and truth.masks is not None:
            entry["segmentation"] = truth.masks.to_json(index)
        elif kind == "keypoints" and truth.keypoints is not None:
            points = truth.keypoints[index]
            entry |= {"keypoints": points.reshape(-1).tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        yield entry


def _ignored(truth: Truth, image: int, kind: IouType) -> Iterator[dict[str, Any]]:
    """The same of what need not be found. Where it has no mask, its box is one."""
    if truth.ignored_boxes is None or truth.ignored_labels is None:
        return
    pairs = zip(truth.ignored_boxes.tolist(), truth.ignored_labels.tolist(), strict=True)
    for index, (box, label) in enumerate(pairs):
        entry = {**_entry(image, box, label), "iscrowd": 1}
        left, top, right, bottom = box
        if kind == "segm" and truth.ignored_masks is not None:
            entry["segmentation"] = truth.ignored_masks.to_json(index)
        elif kind == "segm":
            entry["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
        elif kind == "keypoints" and truth.keypoints is not None:
            entry |= {"keypoints": [0.0] * 3 * truth.keypoints.shape[1], "num_keypoints": 0}
        yield entry


def _given(found: Detections, image: int, kind: IouType) -> Iterator[dict[str, Any]]:
    """COCO results of the detections of an image."""
    columns = (found.boxes.tolist(), found.labels.tolist(), found.scores.tolist())
    for index, (box, label, score) in enumerate(zip(*columns, strict=True)):
        entry = {"image_id": image, "category_id": label, "score": score}
        if kind == "segm" and found.masks is not None:
            entry["segmentation"] = found.masks.to_json(index)
        elif kind == "keypoints" and found.keypoints is not None:
            entry["keypoints"] = found.keypoints[index].reshape(-1).tolist()
        else:
            entry["bbox"] = _entry(image, box, label)["bbox"]
        yield entry


def _entry(image: int, box: list[float], label: int) -> dict[str, Any]:
    left, top, right, bottom = box
    sides = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": label, "bbox": sides, "area": sides[2] * sides[3]}
