"""Generated scenes as COCO-format folders: pycocotools reads them, and colour blobs do not find what is in them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from splitrail.pipeline.errors import ConfigError, SinkError
from splitrail.stages.scene_folder import ANNOTATIONS, write_coco_folder
from splitrail.stages.scenery.classes import CLASSES, KEYPOINTS, NUM_KEYPOINTS, SKELETONS
from splitrail.stages.scenes import SceneWorld

SMALL = (96, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coco") / "scenes"
    write_coco_folder(out, 12, size=SMALL, seed=5, split="test")
    return out


def _load(path: Path) -> object:
    coco = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        return coco.COCO(str(path))


def _average_precision(truth: object, results: list[dict[str, object]], kind: str = "bbox") -> tuple[float, float]:
    """mAP over IoU 0.5 to 0.95, and at 0.5."""
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), kind)  # type: ignore[attr-defined]
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.full(NUM_KEYPOINTS, 0.05)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def test_pycocotools_reads_the_folder_and_finds_the_truth_perfect(folder: Path) -> None:
    truth = _load(folder / ANNOTATIONS)
    annotations = truth.dataset["annotations"]  # type: ignore[attr-defined]
    assert len(annotations) > 20
    for kind in ("bbox", "segm", "keypoints"):
        results = [
            {**annotation, "score": 1.0}
            for annotation in annotations
            if annotation["num_keypoints"] or kind != "keypoints"
        ]
        for result in results:
            for key in {"bbox", "segmentation", "keypoints"} - {{"segm": "segmentation"}.get(kind, kind)}:
                del result[key]
            if kind == "segm":
                mask = truth.annToMask(result)  # type: ignore[attr-defined]
                result["segmentation"] = pytest.importorskip("pycocotools.mask").encode(np.asfortranarray(mask))
        assert _average_precision(truth, results, kind)[0] == pytest.approx(1.0)
    shifted = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": 1.0,
            "bbox": [a["bbox"][0] + a["bbox"][2], *a["bbox"][1:]],
        }
        for a in annotations
    ]
    assert _average_precision(truth, shifted)[0] < 0.1


def test_the_folders_masks_boxes_and_pictures_are_the_worlds(folder: Path) -> None:
    truth = _load(folder / ANNOTATIONS)
    world = SceneWorld(SMALL, seed=5, split="test")
    for index in range(12):
        frame = world.image(index)
        (image,) = truth.loadImgs([index])  # type: ignore[attr-defined]
        picture = cv2.imread(str(folder / "images" / image["file_name"]))
        assert np.abs(picture.astype(int) - frame.image).mean() < 6
        annotations = truth.loadAnns(truth.getAnnIds(imgIds=[index]))  # type: ignore[attr-defined]
        assert [a["category_id"] for a in annotations] == frame.labels.tolist()
        for annotation, mask, box in zip(annotations, frame.masks, frame.boxes.tolist(), strict=True):
            assert np.array_equal(truth.annToMask(annotation), mask)  # type: ignore[attr-defined]
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert [x, y, x + width, y + height] == box


def test_categories_name_their_keypoints(folder: Path) -> None:
    categories = json.loads((folder / ANNOTATIONS).read_text())["categories"]
    assert [category["name"] for category in categories] == list(CLASSES)
    for label, category in enumerate(categories):
        assert category["id"] == label
        assert category["keypoints"] == list(KEYPOINTS[category["name"]])
        assert len(set(category["keypoints"])) == NUM_KEYPOINTS
        assert {end for pair in SKELETONS[category["name"]] for end in pair} <= set(range(1, NUM_KEYPOINTS + 1))


def test_the_same_folder_twice(folder: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    write_coco_folder(tmp_path / "b", 12, SMALL, 5, "test", lambda number, total: done.append((number, total)))
    assert done == [(number, 12) for number in range(1, 13)]
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 13
    for name in files:
        assert (folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupt(number: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_coco_folder(tmp_path / "out", 3, SMALL, progress=interrupt, split="test")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SinkError, match="exists already"):
        write_coco_folder(folder, 3, SMALL)
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SinkError, match="another folder"):
            write_coco_folder(target, 3, SMALL)
    with pytest.raises(ConfigError):
        write_coco_folder(tmp_path / "none", 0, SMALL)


def _blobs(image: npt.NDArray[np.uint8]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Boxes [4] and features of what differs in colour from its surroundings, at three levels of contrast."""
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 1.2), cv2.COLOR_BGR2LAB).astype(np.float32)
    background = cv2.medianBlur(cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), 31)
    surroundings = cv2.resize(cv2.cvtColor(background, cv2.COLOR_BGR2LAB), image.shape[1::-1]).astype(np.float32)
    contrast = np.clip(np.sqrt(((lab - surroundings) ** 2).sum(2)), 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(contrast, 0, 255, cv2.THRESH_OTSU)
    found = []
    for level in (0.6 * otsu, otsu, 1.6 * otsu):
        mask = cv2.morphologyEx((contrast > level).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            x, y, width, height = cv2.boundingRect(contour)
            area = cv2.contourArea(contour)
            if max(width, height) < 12 or area < 20:
                continue
            hull = cv2.contourArea(cv2.convexHull(contour))
            (_, (a, b), _) = cv2.minAreaRect(contour)
            moments = np.abs(cv2.HuMoments(cv2.moments(contour)).ravel()[:4]) + 1e-9
            colour = lab[y : y + height, x : x + width].reshape(-1, 3).mean(0) / 64
            shape = [area / (width * height), area / max(hull, 1), min(a, b) / max(a, b, 1), np.log(width / height)]
            features = np.array([*shape, *(-np.log(moments) / 4), *colour, np.log(area) / 2], np.float32)
            found.append((np.array([x, y, x + width, y + height], np.float32), features))
    return found


def _overlap(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    return np.asarray(shared / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared))


@pytest.mark.slow
def test_colour_blobs_do_not_find_the_objects(tmp_path: Path) -> None:
    """Blobs against the surroundings, told apart by their shape and colour with the truth of other scenes of the same split."""
    world = SceneWorld((256, 320), seed=21, split="test")
    features, labels = [], []
    for index in range(70):
        frame = world.image(index)
        for box, feature in _blobs(frame.image):
            overlaps = _overlap(box, frame.boxes)
            best = int(overlaps.argmax()) if len(overlaps) else -1
            features.append(feature)
            labels.append(int(frame.labels[best]) if best >= 0 and overlaps[best] > 0.5 else -1)
    known, known_labels = np.array(features), np.array(labels)
    assert (known_labels >= 0).sum() > 40

    write_coco_folder(tmp_path / "scenes", 50, (256, 320), seed=22, split="test")
    results: list[dict[str, object]] = []
    for index in range(50):
        found = []
        for box, feature in _blobs(cv2.imread(str(tmp_path / "scenes" / "images" / f"{index:012d}.jpg"))):
            nearest = known_labels[np.argsort(((known - feature) ** 2).sum(1))[:7]]
            found += [(float((nearest == label).mean()), label, box) for label in set(nearest.tolist()) - {-1}]
        kept: list[tuple[float, int, npt.NDArray[np.float32]]] = []
        for score, label, box in sorted(found, key=lambda entry: -entry[0]):
            if all(label != other or _overlap(box, place[None])[0] < 0.5 for _, other, place in kept):
                kept.append((score, label, box))
        for score, label, box in kept:
            left, top, right, bottom = box.tolist()
            place = [left, top, right - left, bottom - top]
            results.append({"image_id": index, "category_id": label, "bbox": place, "score": score})
    truth = _load(tmp_path / "scenes" / ANNOTATIONS)
    _, at_half = _average_precision(truth, results)
    assert 0.005 < at_half < 0.3  # it finds some, so the baseline is one; but far from all
