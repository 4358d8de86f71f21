from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from splitrail.bench.coco_pictures import CocoPictures, DataError
from splitrail.bench.pictures import Picture
from splitrail.distill.augment import augment
from splitrail.distill.loader import SampleSet, TrainingBatches, collate
from splitrail.distill.recipe import DataRecipe
from splitrail.stages.bundle import PreProcess


def coco_folder(folder: Path, num_images: int = 5, size: tuple[int, int] = (48, 80)) -> dict[str, Any]:
    """Pictures with one light rectangle each, and their annotations, which are also returned."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 0, "name": "wide"}, {"id": 2, "name": "tall"}],
    }
    for number in range(num_images):
        image = rng.integers(0, 90, (*size, 3), dtype=np.uint8)
        left, top = int(rng.integers(5, 30)), int(rng.integers(2, 12))
        width, height = ((24, 12), (10, 30))[number % 2]
        image[top : top + height, left : left + width] = 230
        name = f"{number:04d}.png"
        cv2.imwrite(str(folder / "images" / name), image)
        content["images"].append({"id": 10 + number, "file_name": name, "height": size[0], "width": size[1]})
        content["annotations"].append(
            {
                "id": number + 1,
                "image_id": 10 + number,
                "category_id": (0, 2)[number % 2],
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    write(folder, content)
    return content


def write(folder: Path, content: object) -> None:
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_folder_has_category_ids_as_labels_and_boxes_as_corners(tmp_path: Path) -> None:
    content = coco_folder(tmp_path)
    pictures = CocoPictures(tmp_path)
    assert pictures.classes == ("wide", "N/A", "tall")
    assert len(pictures) == 5
    picture = pictures.picture(1, 0)
    left, top, width, height = content["annotations"][1]["bbox"]
    assert picture.boxes.tolist() == [[left, top, left + width, top + height]]
    assert picture.labels.tolist() == [2]
    assert int(picture.image[top, left].min()) == 230


def test_crowds_are_ignored_and_boxes_without_area_left_out(tmp_path: Path) -> None:
    content = coco_folder(tmp_path)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["bbox"][2] = 0
    write(tmp_path, content)
    pictures = CocoPictures(tmp_path)
    assert pictures.picture(0, 0).boxes.shape == (0, 4)
    assert pictures.picture(0, 0).ignored_labels.tolist() == [0]
    assert len(pictures.picture(1, 0).labels) == 0


def test_missing_images_are_named_and_counted(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    (tmp_path / "images" / "0003.png").unlink()
    (tmp_path / "images" / "0001.png").unlink()
    with pytest.raises(DataError, match=r"2 of the 5 images .* the first being .*0001\.png; put them there"):
        CocoPictures(tmp_path)


def test_a_folder_without_annotations_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations at .*annotations\.json"):
        CocoPictures(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[1, 2]", '{"images": []}', '{"images": [{"id": 1}], "categories": [{"id": 1}]}']
)
def test_what_is_not_cocos_format_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"annotations\.json"):
        CocoPictures(tmp_path)


@pytest.mark.parametrize(
    "change", [{"image_id": 99}, {"category_id": 1}, {"category_id": 7}, {"bbox": [1, 2, 3]}], ids=str
)
def test_annotations_that_fit_nothing_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    content = coco_folder(tmp_path)
    content["annotations"][2] |= change
    write(tmp_path, content)
    with pytest.raises(DataError, match=r"annotation 3 of .* does not fit"):
        CocoPictures(tmp_path)


def test_annotations_of_larger_images_are_refused(tmp_path: Path) -> None:
    content = coco_folder(tmp_path)
    content["annotations"][0]["bbox"] = [100, 10, 20, 20]
    write(tmp_path, content)
    with pytest.raises(DataError, match=r"a box outside 0000\.png"):
        CocoPictures(tmp_path).picture(0, 0)


def test_other_classes_than_the_detectors_are_refused(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    with pytest.raises(DataError, match=r"3 classes .* where the detector has 2 \(cat, dog\)"):
        CocoPictures(tmp_path, ("cat", "dog"))


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    (tmp_path / "images" / "0000.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"0000\.png cannot be read"):
        CocoPictures(tmp_path).picture(0, 0)


def _light(picture: Picture) -> list[list[int]]:
    """Where the light rectangle really is, xyxy."""
    y, x = np.nonzero(picture.image.min(axis=2) > 150)
    return [[int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]]


def test_augmented_truth_stays_on_the_object(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    pictures = CocoPictures(tmp_path)
    shapes = set()
    for seed in range(40):
        changed = augment(pictures.picture(seed % 5, 0), np.random.default_rng(seed), flip=True, crop=0.5, colour=0.2)
        shapes.add(changed.image.shape)
        if len(changed.boxes):
            assert np.abs(changed.boxes - _light(changed)).max() <= 1
    assert len(shapes) > 5


def test_samples_are_letterboxed_with_boxes_relative_to_the_valid_part(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    sample = SampleSet(CocoPictures(tmp_path), PreProcess(size=(64, 64)))[0, 0]
    assert sample.pixels.shape == (64, 64, 3)
    assert sample.valid_size == (38, 64)
    assert not sample.pixels[38:].any()
    x, y, width, height = sample.boxes[0] * [64, 38, 64, 38]
    inside = sample.pixels[
        round(y - height / 2) + 1 : round(y + height / 2) - 1, round(x - width / 2) + 1 : round(x + width / 2) - 1
    ]
    assert inside.min() > 200


def _pixels(pictures: CocoPictures, num_workers: int, epoch: int, first_batch: int = 0) -> list[torch.Tensor]:
    samples = SampleSet(pictures, PreProcess(size=(32, 48)), 7, DataRecipe(crop=0.5, colour=0.1))
    batches = TrainingBatches(samples, 2, num_workers)
    try:
        return [batch.pixels for batch in batches.epoch(epoch, first_batch)]
    finally:
        batches.close()


def test_batches_depend_on_seed_and_epoch_and_not_on_the_workers(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    pictures = CocoPictures(tmp_path)
    here = _pixels(pictures, 0, epoch=1)
    assert len(here) == 2
    assert all(torch.equal(a, b) for a, b in zip(here, _pixels(pictures, 2, epoch=1), strict=True))
    assert not torch.equal(here[0], _pixels(pictures, 0, epoch=2)[0])
    (resumed,) = _pixels(pictures, 0, epoch=1, first_batch=1)
    assert torch.equal(resumed, here[1])


def test_fewer_images_than_a_batch_make_one_smaller_batch(tmp_path: Path) -> None:
    coco_folder(tmp_path, num_images=2)
    batches = TrainingBatches(SampleSet(CocoPictures(tmp_path), PreProcess(size=(32, 48))), 16, 0)
    assert [len(batch.pixels) for batch in batches.epoch(0)] == [2]


def test_images_with_different_numbers_of_objects_share_a_batch(tmp_path: Path) -> None:
    content = coco_folder(tmp_path)
    del content["annotations"][0]
    write(tmp_path, content)
    samples = SampleSet(CocoPictures(tmp_path), PreProcess(size=(32, 48)))
    assert collate([samples[0, 0], samples[0, 1]]).targets.used.tolist() == [[False], [True]]
