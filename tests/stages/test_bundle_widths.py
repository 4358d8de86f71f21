"""A bundle of several widths: what the manifest may say, and one width of it as a bundle of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitrail.pipeline.errors import BundleError, ConfigError
from splitrail.stages.bundle import MANIFEST, Bundle, MeasuredAccuracy, sha256_of
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

WIDTHS = (0.25, 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three graphs, of which the encoder has another one at each width: the same graph under another name."""
    bundle = make_synthetic_bundle(tmp_path, cuts=2)
    encoder = next(stage for stage in bundle.stages if stage.name == "encoder")
    with np.load(tmp_path / bundle.golden) as stored:
        golden = dict(stored)
    narrower = []
    for width in WIDTHS:
        name = f"encoder-{width!r}.onnx"
        shutil.copyfile(tmp_path / encoder.graph, tmp_path / name)
        narrower.append({"width": width, "stages": [encoder.model_dump() | {"graph": name}]})
        golden[f"0/memory@{width!r}"] = np.full_like(golden["0/memory"], width)
    np.savez(tmp_path / bundle.golden, **golden)
    edit(
        tmp_path,
        lambda raw: raw.update(narrower=narrower, golden_sha256=sha256_of(tmp_path / bundle.golden)),
    )
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    change(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))


def test_one_width_is_an_ordinary_bundle(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.widths == (0.25, 0.5, 1.0)
    assert set(bundle.checksums()) >= {"encoder-0.25.onnx", "encoder-0.5.onnx", "encoder.onnx"}
    for width in bundle.widths:
        view = bundle.at_width(width)
        assert (view.width, view.widths, view.narrower) == (width, (width,), ())
        graphs = [stage.graph for stage in view.stages]
        assert graphs == ["backbone.onnx", "encoder.onnx" if width == 1 else f"encoder-{width!r}.onnx", "decoder.onnx"]
        assert view.chain() == bundle.chain()
        assert view.at_width(width) == view
    checksums = {bundle.checksum, *(bundle.at_width(width).checksum for width in bundle.widths)}
    assert len(checksums) == 4


def test_golden_frames_are_those_of_the_width(folder: Path) -> None:
    bundle = Bundle.load(folder)
    whole = bundle.golden_frames(folder)
    for width in bundle.widths:
        first, second = bundle.at_width(width).golden_frames(folder)
        assert set(first) == set(whole[0])
        np.testing.assert_array_equal(first["features"], whole[0]["features"])
        np.testing.assert_array_equal(second["memory"], whole[1]["memory"])
        if width == 1:
            np.testing.assert_array_equal(first["memory"], whole[0]["memory"])
        else:
            assert (first["memory"] == width).all()


def test_an_ordinary_bundle_has_one_width(tmp_path: Path) -> None:
    bundle = make_synthetic_bundle(tmp_path)
    assert bundle.widths == (1.0,)
    assert bundle.at_width(1.0) is bundle
    with pytest.raises(ConfigError, match=r"no width 0.5; choose among 1.0"):
        bundle.at_width(0.5)


def test_a_manifest_from_before_there_were_widths_is_read(tmp_path: Path) -> None:
    made = make_synthetic_bundle(tmp_path)
    row = {"wire": "uint8", "data": "x", "num_images": 5, "bytes_per_frame": 7.0, "box_map": 0.5}

    def age(raw: dict[str, Any]) -> None:
        del raw["width"], raw["narrower"]
        raw["accuracy"] = [row]

    edit(tmp_path, age)
    bundle = Bundle.load(tmp_path)
    assert bundle.stages == made.stages
    assert (bundle.accuracy[0].width, bundle.accuracy[0].way, bundle.accuracy[0].jpeg_quality) == (1.0, "split", None)


def _other_tensor(raw: dict[str, Any]) -> None:
    raw["narrower"][0]["stages"][0]["outputs"][0]["name"] = "another"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["narrower"].reverse(), r"the widths are \[0.5, 0.25, 1.0\]; they must increase"),
        (lambda raw: raw["narrower"][1].update(width=0.25), "must increase"),
        (lambda raw: raw["narrower"][1].update(width=1.0), "less than 1"),
        (lambda raw: raw["narrower"][0].update(width=0), "greater than 0"),
        (lambda raw: raw.update(width=0.75), "`stages` itself is width 1"),
        (lambda raw: raw["narrower"][0].update(stages=[]), "one or more of"),
        (lambda raw: raw["narrower"][0]["stages"].append(raw["narrower"][0]["stages"][0]), "each once"),
        (lambda raw: raw["narrower"][0]["stages"][0].update(name="tail"), r"has the stages \['tail'\]"),
        (_other_tensor, "must have the same names"),
        (lambda raw: raw["narrower"][0].update(height=3), "narrower.0.height"),
    ],
)
def test_widths_that_cannot_be_are_told(folder: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    edit(folder, change)
    with pytest.raises(BundleError, match=words):
        Bundle.load(folder)


def test_a_missing_graph_of_a_width_is_told(folder: Path) -> None:
    (folder / "encoder-0.25.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks .*encoder-0\.25\.onnx"):
        Bundle.load(folder)


def test_a_filter_cannot_read_what_follows_the_width(tmp_path: Path) -> None:
    bundle = make_synthetic_bundle(tmp_path, filter_threshold=0.1)
    stem = bundle.stages[0].model_dump()
    edit(tmp_path, lambda raw: raw.update(narrower=[{"width": 0.5, "stages": [stem]}]))
    with pytest.raises(BundleError, match=r"the filter reads 'stem', which differs at width 0\.5"):
        Bundle.load(tmp_path)


def test_recorded_accuracies_take_the_place_of_those_of_the_same_setting(folder: Path) -> None:
    bundle = Bundle.load(folder)

    def row(box_map: float, **setting: Any) -> MeasuredAccuracy:
        values = {"wire": "uint8", "data": "x", "num_images": 5, "bytes_per_frame": 7.0} | setting
        return MeasuredAccuracy(box_map=box_map, **values)

    bundle = bundle.with_accuracy([row(0.5), row(0.4, width=0.5), row(0.6, way="local", wire="fp32")])
    bundle = bundle.with_accuracy([row(0.3, width=0.5), row(0.2, way="offload", wire="fp32", jpeg_quality=50)])
    assert [each.box_map for each in bundle.accuracy] == [0.5, 0.3, 0.6, 0.2]
    assert [each.box_map for each in bundle.at_width(0.5).accuracy] == [0.3]
    bundle.save(folder)
    assert Bundle.load(folder) == bundle
