from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splitrail.bench.bundle_accuracy import evaluate_bundle
from splitrail.bench.pictures import Picture
from splitrail.pipeline.errors import BundleError
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


@pytest.mark.parametrize("wire", ["fp32", "fp16", "uint8"])
def test_every_wire_type_is_judged_on_every_picture(folder: Path, wire: WireType) -> None:
    classes = Bundle.load(folder).classes
    seen: list[tuple[int, int]] = []
    accuracy = evaluate_bundle(folder, _Pictures(classes), 3, wire=wire, progress=lambda *at: seen.append(at))
    assert accuracy.num_images == 3
    assert accuracy.num_objects == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert accuracy.map is not None
    assert 0 <= accuracy.map <= 1


def test_classes_are_matched_by_name(folder: Path) -> None:
    classes = Bundle.load(folder).classes
    same = evaluate_bundle(folder, _Pictures(classes[:1]), 2)
    assert set(same.per_class) == {0}
    other = evaluate_bundle(folder, _Pictures(classes[1:2]), 2)
    assert set(other.per_class) == {1}


def test_pictures_of_other_classes_are_refused(folder: Path) -> None:
    with pytest.raises(BundleError, match="lacks 'goblet'"):
        evaluate_bundle(folder, _Pictures(("goblet",)), 1)
