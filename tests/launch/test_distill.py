from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitrail.bench.pictures import ScenePictures
from splitrail.distill.loop import RECORDS
from splitrail.distill.recipe import Recipe
from splitrail.distill.results_table import FIGURE, ROWS, TABLE, JpegPictures, RawPictures, Row, write_table
from splitrail.distill.train import Trainer
from splitrail.launch import distill_table
from splitrail.launch.cli import main
from splitrail.stages.bundle import Bundle

pytestmark = pytest.mark.timeout(600)  # training is slow on a busy machine

_TEACHER: dict[str, Any] = {
    "name": "tiny",
    "phases": [{"epochs": 1, "size": (64, 80), "batch_size": 2}],
    "model": {
        "depth": 18,
        "dilation": True,
        "width": 16,
        "num_queries": 6,
        "d_model": 16,
        "heads": 4,
        "ffn": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "dropout": 0.0,
    },
    "data": {"images_per_epoch": 4, "validation_images": 2, "workers": 0},
}
_CONFIG = """
epochs = [1]
batch_size = 2
[data]
images_per_epoch = 4
validation_images = 8
held_out_images = 8
empty = 0.46
workers = 0
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    Trainer(Recipe.check(_TEACHER, "the test"), out).run()
    return out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text(_CONFIG, encoding="utf-8")
    return path


def _main(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_bottleneck_and_a_filter_become_a_bundle(
    teacher: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, filtered = tmp_path / "ghnd", tmp_path / "filtered"
    arguments = ("--config", config, "--threads", 1, "--device", "cpu")
    assert (
        _main("distill", "ghnd", "--teacher", teacher, "--bottleneck", 6, "--out", student, *arguments, "--json") == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((student / "result.json").read_text())
    assert result["held_out"]["num_images"] == 8
    assert len((student / RECORDS).read_text().splitlines()) == 1

    # A finished one has nothing left to do, and says the same again.
    assert _main("distill", "ghnd", "--out", student, "--resume", "--device", "cpu", "--threads", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out) == result

    assert _main("distill", "filter", "--teacher", student, "--out", tmp_path / "filter", *arguments) == 0
    assert "AUC" in capsys.readouterr().err
    assert _main("export", student, "--cut", "l0,bottleneck", "--out", tmp_path / "bundle") == 0
    assert _main("distill", "attach", tmp_path / "filter", "--bundle", tmp_path / "bundle", "--out", filtered) == 0
    bundle = Bundle.load(filtered)
    assert bundle.filter is not None
    assert bundle.stages[1].wire_tensors == ("bottleneck",)
    assert bundle.detector == "tiny-b6"
    assert _main("evaluate", student, "--num-images", 2, "--json") == 0
    capsys.readouterr()

    wrong = ("distill", "attach", tmp_path / "filter", "--bundle", tmp_path / "bundle", "--out", tmp_path / "other")
    assert _main(*wrong, "--threshold", 1.5) == 2
    assert "not in [0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["hnd"], "--teacher is missing"),
        (["hnd", "--teacher", "nowhere"], "no file, no folder and no detector's name"),
        (["hnd", "--teacher", "detr-resnet-50"], "random weights"),
        (["hnd", "--teacher", "TEACHER", "--config", "none"], "presets are backbone"),
        (["hnd", "--teacher", "TEACHER", "--bottleneck", "0"], "student.bottleneck"),
        (["hnd", "--teacher", "TEACHER", "--at", "layer2"], "student.bottleneck_at"),
        (["ghnd", "--teacher", "TEACHER", "--layer-weights", "1,x"], "student.layer_weights"),
        (["sskd", "--teacher", "TEACHER", "--depth", "18", "--width", "16"], "already"),
        (["sskd", "--teacher", "TEACHER", "--depth", "19"], "no ResNet-19"),
        (["encoder", "--teacher", "TEACHER", "--encoder-layers", "2"], "no fewer"),
        (["hnd", "--teacher", "TEACHER", "--size", "tall"], "HxW"),
        (["hnd", "--teacher", "TEACHER", "--data", "nowhere"], "no annotations at"),
        (["hnd", "--resume"], "no checkpoint at"),
        (["filter", "--teacher", "TEACHER", "--recall", "0"], "filter.recall"),
        (["table", "--teacher", "detr-resnet-50"], "a checkpoint or the folder of a training"),
    ],
)
def test_bad_options_get_one_sentence(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    given = [str(teacher) if argument == "TEACHER" else argument for argument in arguments]
    assert _main("distill", *given, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert text in error.replace("\n", " ")
    assert "Traceback" not in error
    assert not list(tmp_path.glob("out/*.safetensors"))


def test_a_folder_with_a_training_is_not_written_over(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in teacher.iterdir()}
    assert _main("distill", "hnd", "--teacher", teacher, "--out", teacher) == 2
    assert "has a training in it already" in capsys.readouterr().err
    assert _main("distill", "hnd", "--resume", "--out", teacher) == 2
    assert "of a training; go on from it with 'splitrail train'" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in teacher.iterdir()} == before


def test_jpegs_are_weighed_and_keep_their_size() -> None:
    pictures = ScenePictures((96, 120), 5, "test", 2)
    raw = RawPictures(pictures, (48, 80))
    assert np.array_equal(raw.picture(0, 0).image, pictures.picture(0, 0).image)
    assert raw.num_bytes == 3 * 48 * 60
    sizes = {}
    for quality, scale in ((90, 1.0), (20, 1.0), (90, 0.5)):
        sent = JpegPictures(pictures, quality, scale)
        picture = sent.picture(0, 0)
        assert picture.image.shape == (96, 120, 3)
        assert np.array_equal(picture.boxes, pictures.picture(0, 0).boxes)
        sizes[quality, scale] = sent.num_bytes
        sent.picture(1, 0)
        assert sent.num_bytes > sizes[quality, scale]
    assert sizes[90, 1.0] > sizes[20, 1.0]
    assert sizes[90, 1.0] > sizes[90, 0.5]


def test_rows_become_markdown_json_and_a_figure(tmp_path: Path) -> None:
    row = Row("GHND, 3 channels", "GHND", 0, "uint8", 0.5, None, 1234.5, 2_000_000, 3_000_000)
    text = write_table([row, dataclasses.replace(row, wire="fp16", bytes_per_frame=2469)], tmp_path, ["How."])
    assert "| GHND, 3 channels | 0 | uint8 | 50.0 | - | 1,234 | 2 | 3,000,000 |  |" in text
    assert (tmp_path / TABLE).read_text() == text
    assert json.loads((tmp_path / ROWS).read_text())[0] == dataclasses.asdict(row)
    assert (tmp_path / FIGURE).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_table_has_every_experiment_and_goes_on_where_it_was(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = dataclasses.replace(
        distill_table.QUICK, num_images=8, images_per_epoch=4, wires=("uint8", "uint4+zstd"), qualities=(50,)
    )
    monkeypatch.setattr(distill_table, "QUICK", small)
    arguments = (
        "distill",
        "table",
        "--quick",
        "--teacher",
        teacher,
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--threads",
        1,
    )
    assert _main(*arguments) == 0
    text = capsys.readouterr().out
    rows = json.loads((tmp_path / ROWS).read_text())
    found = {(row["family"], row["wire"]) for row in rows}
    assert found == {
        ("naive split", "fp16"),
        ("naive split", "uint8"),
        ("JPEG offload", "jpeg"),
        ("raw offload", "raw"),
        ("SSKD backbone", "fp16"),
        ("SSKD backbone", "uint8"),
        ("fewer encoder layers", "fp16"),
        ("fewer encoder layers", "uint8"),
        *((family, wire) for family in ("HND", "GHND", "bottleneck at the projection") for wire in small.wires),
        ("without filter, on the same images", "uint8"),
        ("with filter", "uint8"),
    }
    by_wire = {row["wire"]: row["bytes_per_frame"] for row in rows if row["family"] == "GHND"}
    assert by_wire["uint8"] > by_wire["uint4+zstd"] > 0
    before = (tmp_path / "ghnd-3-seed0" / "last.safetensors").stat().st_mtime_ns
    assert _main(*arguments) == 0
    assert capsys.readouterr().out == text
    assert (tmp_path / "ghnd-3-seed0" / "last.safetensors").stat().st_mtime_ns == before
