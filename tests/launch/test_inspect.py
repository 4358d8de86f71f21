"""The verb `inspect` and the options of `export` that name a detector, as a user gives them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_support import splitrail

from splitrail.launch.inspect import inspect_verb, list_verb
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.bundle import Bundle


def inspected(capsys: pytest.CaptureFixture[str], detector: str, split: str = "", bottleneck: int = 0, **options):
    given = {"size": "800x800", "picture": None, "figure": None} | options
    inspect_verb(detector, split, bottleneck, **given, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_head_and_tail_of_a_split(capsys: pytest.CaptureFixture[str]) -> None:
    result = inspected(capsys, "faster-rcnn-resnet50", "bottleneck", 3)
    assert result["split"]["cut"] == "bottleneck"
    assert result["split"]["wire_bytes"] == {"fp32": 499_392, "fp16": 249_696, "uint8": 124_848}
    assert result["split"]["relative_elements"] == pytest.approx(0.065025)
    assert result["split"]["head"]["num_parameters"] == 9_408 + 148_992
    parts = result["split"]["head"], result["split"]["tail"]
    assert sum(part["num_parameters"] for part in parts) == result["num_parameters"]
    assert sum(part["num_macs"] for part in parts) == result["num_macs"]
    assert result["modules"][-1]["cumulative_macs"] == result["num_macs"]


def test_the_default_split_and_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspected(capsys, "detr-resnet-18", size="64x64")["split"]["cut"] == "projection"
    assert inspected(capsys, "mask-rcnn-resnet18", size="64x64")["split"]["cut"] == "l0"
    squeezed = inspected(capsys, "detr-resnet-18", "projection", 32, size="480x640")
    assert squeezed["split"]["cut"] == "bottleneck"
    assert squeezed["split"]["wire_bytes"]["uint8"] == 9_600
    whole = inspected(capsys, "detr-resnet-18", "input", size="480x640")
    assert whole["split"]["head"] == {"num_parameters": 0, "num_macs": 0}
    assert whole["split"]["wire_bytes"] == {"uint8": 3 * 480 * 640}


def test_a_jpeg_to_compare_with(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), image)
    result = inspected(capsys, "faster-rcnn-resnet18", "bottleneck", 3, size="96x128", picture=tmp_path / "x.png")
    sizes, ratios = result["jpeg_bytes"], result["split"]["relative_to_jpeg"]
    assert sizes["native"] == len(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1])
    assert ratios["resized"]["fp16"] == result["split"]["wire_bytes"]["fp16"] / sizes["resized"]
    assert ratios["native"]["fp32"] == pytest.approx(2 * ratios["native"]["fp16"])


def test_the_figure_is_a_png(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    inspected(capsys, "keypoint-rcnn-resnet34", figure=tmp_path / "f.png", size="64x64")
    assert cv2.imread(str(tmp_path / "f.png")).shape[1] > 600
    with pytest.raises(ConfigError, match="cannot be written"):
        inspected(capsys, "detr-resnet-18", figure=tmp_path / "no" / "f.png", size="64x64")


def test_the_list_has_every_detector(capsys: pytest.CaptureFixture[str]) -> None:
    list_verb(as_json=True)
    rows = {row["detector"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 21
    assert rows["efficientdet-d2"]["splits"] == ["input", "p3", "bottleneck"]
    assert rows["detr-resnet-50-dc5"]["splits"] == ["input", "l0", "bottleneck", "c5", "projection", "memory"]
    assert rows["mask-rcnn-resnet101"]["splits"] == ["input", "l0", "bottleneck"]
    list_verb(as_json=False)
    assert "keypoint-rcnn-resnet34" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["inspect"], "--list"),
        (["inspect", "yolo"], "there is no detector 'yolo'"),
        (["inspect", "detr-resnet-50", "--size", "dynamic"], "HxW"),
        (["inspect", "detr-resnet-50", "--split", "bottleneck"], "--bottleneck"),
        (["inspect", "faster-rcnn-resnet50", "--split", "c5"], "branches behind layer1"),
        (["inspect", "detr-resnet-50", "--image", "nothing.jpg"], "cannot be read as an image"),
        (["export", "faster-rcnn-resnet50", "--out", "x", "--split", "c5"], "branches behind layer1"),
        (["export", "faster-rcnn-resnet50", "--out", "x", "--bottleneck", "-3"], "cannot be"),
        (["export", "mask-rcnn-resnet18", "--out", "x", "--queries", "5"], "cannot be chosen"),
        (["export", "detr-resnet-18", "--out", "x", "--widths", "0.5,wide"], "no fractions joined by commas"),
        (["export", "detr-resnet-18", "--out", "x", "--widths", "0.25,0.5"], "the largest being 1"),
        (["export", "detr-resnet-18", "--out", "x", "--computation"], "give --widths too"),
        (["export", "efficientdet-d0", "--out", "x", "--size", "dynamic"], "leave --size out"),
        (["inspect", "detr-resnet-50", "--width", "1.5"], "up to 1"),
    ],
)
def test_bad_options_get_exit_code_2(arguments: list[str], text: str, tmp_path: Path) -> None:
    result = splitrail(*arguments, folder=tmp_path)
    assert result.code == 2, result.err
    assert text in " ".join(result.err.split())
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    inspect_verb("detr-resnet-18", "", 0, "64x64", None, None, as_json=False)
    out = capsys.readouterr().out
    assert "head of a split at projection" in out
    assert "parts of" in out


def test_every_width_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    result = inspected(capsys, "detr-resnet-50", widths=True, size="480x640")
    rows = result["widths"]
    assert (result["bottleneck"], result["configurable"]) == (64, "bandwidth")
    assert [row["width"] for row in rows] == [0.167, 0.25, 0.33, 0.416, 0.5, 0.58, 0.66, 0.75, 0.83, 0.916, 1.0]
    assert [row["channels"] for row in rows][::5] == [11, 37, 64]
    cells = 15 * 20
    assert rows[-1]["wire_bytes"] == {"fp16": 2 * 64 * cells, "uint8": 64 * cells, "uint4": 32 * cells}
    for narrow, wide in pairwise(rows):
        more = wide["channels"] - narrow["channels"]
        # On both sides of the wire a 1x1 convolution from or to 256 channels, the first with a bias.
        assert wide["head"]["num_parameters"] - narrow["head"]["num_parameters"] == 257 * more
        assert wide["tail"]["num_parameters"] - narrow["tail"]["num_parameters"] == 256 * more
        for part in ("head", "tail"):
            assert wide[part]["num_macs"] - narrow[part]["num_macs"] == 256 * cells * more
    one = inspected(capsys, "detr-resnet-50", "projection", 64, width=0.5, size="480x640")
    assert one["split"]["head"] == rows[4]["head"]
    assert one["split"]["cut"] == "bottleneck"
    slim = inspected(capsys, "faster-rcnn-resnet18", "", 6, widths=True, computation=True, size="64x64")["widths"]
    assert [row["channels"] for row in slim][::5] == [1, 3, 6]
    assert slim[0]["head"]["num_macs"] < 0.2 * slim[-1]["head"]["num_macs"]
    inspect_verb("detr-resnet-18", "", 0, "64x64", None, None, widths=True, as_json=False)
    assert "0.916" in capsys.readouterr().out


def test_every_width_of_a_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect_verb(str(bundle), "", 0, "", None, None, widths=True, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["widths"]
    manifest = Bundle.load(bundle)
    elements = manifest.stages[0].max_wire_bytes // 4
    assert row["wire_bytes"] == {"fp16": 2 * elements, "uint8": elements, "uint4": elements // 2}
    assert row["head"]["num_macs"] == manifest.stages[0].num_macs
    with pytest.raises(ConfigError, match="only --widths is known"):
        inspect_verb(str(bundle), "", 0, "", None, None, as_json=True)
