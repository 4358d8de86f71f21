from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from splitrail.launch.cli import main
from splitrail.launch.config import RunConfig
from splitrail.launch.run import CONFIG
from splitrail.stages.bundle import Bundle
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

_NUM_IMAGES = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    make_synthetic_bundle(path, seed=1)
    return path


@pytest.fixture
def data(tmp_path: Path, bundle: Path) -> Path:
    """A COCO folder of the bundle's classes: one object per image."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    classes = Bundle.load(bundle).classes
    rng = np.random.default_rng(0)
    for number in range(_NUM_IMAGES):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), rng.integers(0, 256, (60, 90, 3), dtype=np.uint8))
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(_NUM_IMAGES)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
        "annotations": [
            {"id": number + 1, "image_id": number, "category_id": 0, "bbox": [10, 10, 30, 20 + number]}
            for number in range(_NUM_IMAGES)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def _run_folder(out: Path, bundle: Path, source: str) -> Path:
    """What a run leaves behind that found the first object of every image, and lost the last frame."""
    out.mkdir()
    config = RunConfig.check({"source": {"uri": source}, "out": str(out), "bundle": str(bundle)}, "the test")
    (out / CONFIG).write_text(config.model_dump_json())
    label = Bundle.load(bundle).classes[0]
    lines = [
        {
            "frame": number,
            "fate": "done" if number < _NUM_IMAGES - 1 else "failed",
            "detections": [{"box": [10, 10, 40, 30 + number], "score": 0.9, "label": label}],
        }
        for number in range(_NUM_IMAGES)
    ]
    (out / "detections.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def test_a_bundle_is_judged_with_the_wire_type_asked_for(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(bundle), "--data", str(data), "--engine", "onnxruntime", "--wire", "uint8", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["engine"], result["wire"], result["num_images"]) == ("onnxruntime", "uint8", _NUM_IMAGES)
    assert 0 <= result["mAP"] <= 1


def test_a_run_on_images_is_judged_by_their_annotations(
    tmp_path: Path, bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _run_folder(tmp_path / "out", bundle, str(data / "images"))
    assert main(["evaluate", str(out), "--data", str(data), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_images"] == _NUM_IMAGES - 1
    assert result["mAP"] == 1


def test_a_run_whose_source_has_no_truth_asks_for_it(
    tmp_path: Path, bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _run_folder(tmp_path / "out", bundle, str(data / "images"))
    assert main(["evaluate", str(out)]) == 2
    assert "give --data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "no annotations at nowhere"),
        (["--data", "scenes:size=big"], "is not understood"),
        (["--data", "scenes"], "the bundle lacks 'mug'"),
        (["--wire", "int4"], "no wire type 'int4'"),
        (["--engine", "abacus"], "no engine [abacus]"),
    ],
)
def test_options_that_do_not_fit_end_with_one_sentence(
    bundle: Path, data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("--engine", "onnxruntime"), ("--data", str(data))):
        arguments = arguments if option in arguments else [*arguments, option, value]
    assert main(["evaluate", str(bundle), *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error


def test_every_setting_is_judged_and_recorded(
    tmp_path: Path, bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    arguments = ["evaluate", str(copy), "--data", str(data), "--engine", "onnxruntime"]
    assert main([*arguments, "--all-settings", "--record", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = [row["setting"] for row in result["settings"]]
    assert names == ["1 fp16", "1 uint8", "1 uint4", "local 1", "offload q90", "offload q75", "offload q50"]
    table = Bundle.load(copy).accuracy
    assert [(row.way, row.wire, row.jpeg_quality) for row in table][2:5] == [
        ("split", "uint4", None),
        ("local", "fp32", None),
        ("offload", "fp32", 90),
    ]
    for row, shown in zip(table, result["settings"], strict=True):
        assert (row.box_map, row.bytes_per_frame) == (shown["mAP"], shown["bytes_per_frame"])
        assert (row.num_images, row.data) == (_NUM_IMAGES, "data, by onnxruntime fp32")
    # One setting again: its row is replaced, the others stay.
    assert main([*arguments, "--num-images", "2", "--wire", "uint8", "--record"]) == 0
    assert "recorded in" in capsys.readouterr().out
    again = Bundle.load(copy).accuracy
    assert [row.num_images for row in again] == [4, 2, 4, 4, 4, 4, 4]
    assert Bundle.load(bundle).accuracy == ()
    assert main([*arguments, "--all-settings"]) == 0
    assert "offload q75" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0.5"], "no width 0.5; choose among 1.0"),
        (["--all-settings", "--wire", "uint8"], "leave --width and --wire out"),
        (["--record", "--nms-iou", "0.5"], "leave --nms-iou out"),
    ],
)
def test_settings_that_cannot_be_judged_are_told(
    bundle: Path, data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(bundle), "--data", str(data), "--engine", "onnxruntime", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_only_a_bundle_has_settings(
    tmp_path: Path, bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _run_folder(tmp_path / "out", bundle, str(data / "images"))
    assert main(["evaluate", str(out), "--all-settings"]) == 2
    assert "is no bundle" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--width", "0.5"]) == 2
    assert "give --width with its bundle" in capsys.readouterr().err


def test_what_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 2
    assert "there is no checkpoint at" in capsys.readouterr().err


def test_training_asks_for_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path)]) == 2
    assert "preset (coco, demo, gpu, rcnn-small)" in capsys.readouterr().err


def test_a_training_has_its_own_size_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "b"), "--size", "64x64"]) == 2
    assert "is a training" in capsys.readouterr().err
