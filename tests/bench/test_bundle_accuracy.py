from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitrail.bench.bundle_accuracy import evaluate_bundle
from splitrail.bench.pictures import Picture
from splitrail.pipeline.errors import BundleError, ConfigError
from splitrail.stages.bundle import Bundle, WireType
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


class _Pictures:
    """Noise, whose truth is what the bundle itself finds in it."""

    def __init__(self, classes: tuple[str, ...], num: int = 4) -> None:
        self.classes = classes
        self._num = num

    def __len__(self) -> int:
        return self._num

    def picture(self, index: int, epoch: int) -> Picture:
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        return Picture(image, np.array([[5, 5, 40, 40]], np.float32), np.array([index % len(self.classes)], np.int32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    make_synthetic_bundle(path, seed=1)
    return path


@pytest.mark.parametrize("wire", ["fp32", "fp16", "uint8", "uint6-channel", "uint4+zstd"])
def test_every_wire_type_is_judged_on_every_picture(folder: Path, wire: WireType) -> None:
    classes = Bundle.load(folder).classes
    seen: list[tuple[int, int]] = []
    judged = evaluate_bundle(folder, _Pictures(classes), 3, wire=wire, progress=lambda *at: seen.append(at))
    accuracy = judged.boxes
    assert accuracy.num_images == 3
    assert accuracy.num_objects == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert accuracy.map is not None
    assert 0 <= accuracy.map <= 1
    # 16 channels of 8 x 12 cells; parameters and gaps take less than 300 bytes.
    bits = {"fp32": 32, "fp16": 16, "uint8": 8, "uint6-channel": 6, "uint4+zstd": 4}[wire]
    num_bytes = 16 * 8 * 12 * bits / 8
    assert (0 if "zstd" in wire else num_bytes) <= judged.bytes_per_frame <= num_bytes + 300
    assert judged.num_empty == 0


class _HalfGrey(_Pictures):
    """Every second one has nothing in it."""

    def picture(self, index: int, epoch: int) -> Picture:
        picture = super().picture(index, epoch)
        if index % 2 == 0:
            return picture
        return Picture(np.full_like(picture.image, 128), picture.boxes[:0], picture.labels[:0])


def test_the_filter_ends_empty_pictures(tmp_path: Path) -> None:
    make_synthetic_bundle(tmp_path, seed=1, filter_threshold=0.1)
    pictures = _HalfGrey(Bundle.load(tmp_path).classes)
    filtered = evaluate_bundle(tmp_path, pictures, 4, wire="uint8")
    whole = evaluate_bundle(tmp_path, pictures, 4, wire="uint8", is_filtered=False)
    assert (filtered.num_empty, whole.num_empty) == (2, 0)
    assert filtered.bytes_per_frame == whole.bytes_per_frame / 2
    # What was found in grey pictures, found nothing: without it the precision is at least as high.
    assert filtered.boxes.num_objects == whole.boxes.num_objects == 2
    assert (filtered.boxes.map or 0) >= (whole.boxes.map or 0)
    result = filtered.to_json(pictures.classes)
    assert (result["num_empty"], result["num_images"]) == (2, 4)
    everything = evaluate_bundle(tmp_path, pictures, 4, filter_threshold=1.0)
    assert (everything.num_empty, everything.bytes_per_frame) == (4, 0)


def test_a_filter_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no neural filter"):
        evaluate_bundle(folder, _Pictures(Bundle.load(folder).classes), 1, is_filtered=True)


def test_classes_are_matched_by_name(folder: Path) -> None:
    classes = Bundle.load(folder).classes
    same = evaluate_bundle(folder, _Pictures(classes[:1]), 2)
    assert set(same.boxes.per_class) == {0}
    other = evaluate_bundle(folder, _Pictures(classes[1:2]), 2)
    assert set(other.boxes.per_class) == {1}


def test_pictures_of_other_classes_are_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="lacks 'goblet'"):
        evaluate_bundle(folder, _Pictures(("goblet",)), 1)
