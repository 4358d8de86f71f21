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
from splitrail.distill.result_row import Row, load_rows, save_rows
from splitrail.distill.results_table import (
    COMPUTATION,
    FIGURE,
    ONE_BY_ONE,
    ROWS,
    SLIMMABLE,
    TABLE,
    TAKEN_ANEW,
    Results,
    write_table,
)
from splitrail.distill.sent_pictures import JpegPictures, RawPictures
from splitrail.distill.train import Trainer
from splitrail.launch import distill_table
from splitrail.launch.cli import main
from splitrail.launch.table_plan import TablePlan, distillation_students, slimmable_students
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
_DEMO = Path(__file__).parents[2] / "bundles" / "demo"
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


def _efficientdet(folder: Path) -> Path:
    """Weights of the smallest one, as they come."""
    from safetensors.torch import save_file

    from splitrail.models.detector import build_detector
    from splitrail.models.efficientdet_config import efficientdet_config

    state = build_detector(efficientdet_config("efficientdet-d0")).state_dict()
    save_file(state, folder / "d0.safetensors")
    return folder / "d0.safetensors"


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
        (["slimmable", "--teacher", "TEACHER", "--widths", "0.5,0.25"], "the largest being 1"),
        (["slimmable", "--teacher", "TEACHER", "--widths", "half,1"], "student.widths"),
        (["slimmable", "--teacher", "TEACHER", "--num-widths", "1"], "student.num_widths"),
        (["slimmable", "--teacher", "TEACHER", "--at", "p3"], "is no EfficientDet"),
        (["table", "--teacher", "TEACHER", "--part", "nothing"], "choose among distillation, slimmable"),
        (["table", "--teacher", "TEACHER", "--minutes", "0"], "--minutes more"),
        (["table", "--teacher", "detr-resnet-50"], "or a bundle with torch weights"),
        (["table", "--teacher", "BUNDLE"], "has no weights for torch"),
        (["ghnd", "--teacher", "TEACHER", "--goal", "mask"], "gives no masks to choose a checkpoint by"),
        (["ghnd", "--teacher", "TEACHER", "--goal", "area"], "goal: Input should be 'box', 'mask' or 'keypoint'"),
        (
            ["filter", "--teacher", "efficientdet-d0", "--weights", "WEIGHTS"],
            "efficientdet-d0 has none; give a DETR or",
        ),
    ],
)
def test_bad_options_get_one_sentence(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    made = {"TEACHER": lambda: teacher, "WEIGHTS": lambda: _efficientdet(tmp_path), "BUNDLE": lambda: _DEMO}
    given = [str(made[argument]()) if argument in made else argument for argument in arguments]
    assert _main("distill", *given, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert text in error.replace("\n", " ")
    assert "Traceback" not in error
    assert not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize(("options", "threshold"), [((), 0.1), (("--recall", 0.9), None)])
def test_a_recall_that_is_asked_for_holds_instead_of_the_threshold_of_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[Any, ...], threshold: float | None
) -> None:
    from splitrail.launch import distill as verbs

    recipes = []
    held_out = {"AUC": 0.5, "num_images": 1, "threshold": 0.1, "recall": 1.0, "filtered": 0.0}

    def distil(recipe: Any, *_: object, **__: object) -> dict[str, Any]:
        recipes.append(recipe)
        return {"held_out": held_out}

    monkeypatch.setattr(verbs, "distil", distil)
    assert _main("distill", "filter", "--config", "filter", "--teacher", "t", "--out", tmp_path, *options) == 0
    assert [recipe.filter.threshold for recipe in recipes] == [threshold]
    assert not options or recipes[0].filter.recall == 0.9


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


_ROW = Row("GHND, 3 channels", "GHND", 0, "uint8", 0.5, None, 1234.5, 2_000_000, 3_000_000)


def test_rows_become_markdown_json_and_figures(tmp_path: Path) -> None:
    rows = [
        _ROW,
        dataclasses.replace(_ROW, seed=1, mean_precision=0.4),
        dataclasses.replace(_ROW, wire="fp16", bytes_per_frame=2469),
    ]
    text = write_table([Results("distillation", rows, ["HND, 3 channels: no time"])], tmp_path, ["How."])
    assert "| GHND, 3 channels | 1 | 0 | uint8 | 50.0 | - | 1,234 | 2.0 | 3,000,000 |  |" in text
    # Mean and standard deviation of 0.5 and 0.4, in per cent.
    assert "| GHND, 3 channels | uint8 | 45.0 | 7.1 | 2 |" in text
    assert "Not there: HND, 3 channels: no time" in text
    assert "0.379; 0.350; 0.370" in text
    assert (tmp_path / TABLE).read_text() == text
    saved = json.loads((tmp_path / ROWS).read_text())["distillation"]
    assert saved["rows"][0] == dataclasses.asdict(_ROW)
    assert saved["missing"] == ["HND, 3 channels: no time"]
    assert (tmp_path / FIGURE).read_bytes().startswith(b"\x89PNG")


def test_the_slimmable_part_has_a_figure_for_each_comparison(tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(_ROW, family=family, name=family, wire=wire, width=width, bytes_per_frame=1000 * width)
        for family in (SLIMMABLE, ONE_BY_ONE, COMPUTATION, TAKEN_ANEW)
        for wire in ("uint8", "uint4")
        for width in (0.5, 1.0)
    ]
    write_table([Results("slimmable", rows, [])], tmp_path, ["How."])
    names = {f"slimmable-{what}.png" for what in ("widths", "bits", "computation", "recalibration")}
    assert {path.name for path in tmp_path.glob("*.png")} == names


def test_rows_are_kept_for_the_same_circumstances_only(tmp_path: Path) -> None:
    path = tmp_path / "rows" / "a.json"
    save_rows(path, {"data": "scenes", "num_images": 3}, [_ROW])
    assert load_rows(path, {"data": "scenes", "num_images": 3}) == [_ROW]
    assert load_rows(path, {"data": "scenes", "num_images": 4}) is None
    assert load_rows(path.with_name("b.json"), {}) is None
    path.write_text("{", encoding="utf-8")
    assert load_rows(path, {"data": "scenes", "num_images": 3}) is None


def test_the_plan_trains_what_is_asked_for() -> None:
    students = distillation_students(TablePlan(), is_detr=True)
    assert len({student.key for student in students}) == len(students)
    by_family: dict[str, list[tuple[int, int]]] = {}
    for student in students:
        by_family.setdefault(student.family, []).append((student.changes.get("student.bottleneck", 0), student.seed))
    for family in ("HND", "GHND"):
        assert sorted(by_family[family]) == [(3, 0), (3, 1), (3, 2), (6, 0), (12, 0)]
    assert sorted(by_family["bottleneck at the projection"]) == [(8, 0), (32, 0)]
    assert len(by_family["SSKD backbone"]) == len(by_family["fewer encoder layers"]) == 1
    assert {student.family for student in distillation_students(TablePlan(), is_detr=False)} == {"HND", "GHND"}

    for is_detr, channels in ((True, [4, 8, 16, 32]), (False, [3, 6, 9, 12])):
        slimmable = slimmable_students(TablePlan(), is_detr=is_detr)
        alone = [student.changes["student.bottleneck"] for student in slimmable if student.family == ONE_BY_ONE]
        assert sorted(alone) == channels
        assert {student.config for student in slimmable} == {"short-slimmable"}
        (one,) = (student for student in slimmable if student.family == SLIMMABLE)
        (computation,) = (student for student in slimmable if student.family == COMPUTATION)
        assert computation.changes["student.configurable"] == "computation"
        assert one.changes["student.bottleneck"] == channels[-1]


def test_a_slimmable_bottleneck_is_trained_and_told_by_width(
    teacher: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "slim"
    arguments = ("--config", config, "--threads", 1, "--device", "cpu", "--teacher", teacher, "--out", out)
    options = ("--bottleneck", 4, "--at", "projection", "--widths", "0.5,1", "--recalibrate", 4, "--computation")
    assert _main("distill", "slimmable", *arguments, *options) == 0
    told = capsys.readouterr().err
    assert "width 0.5: mAP" in told
    assert "recalibrated: width 1: mAP" in told
    result = json.loads((out / "result.json").read_text())
    assert list(result["held_out"]["widths"]) == ["0.5", "1"]
    assert _main("evaluate", out, "--num-images", 2, "--json") == 0


def test_a_student_with_a_background_is_judged_on_scenes(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitrail.distill import student_trainer
    from splitrail.distill.teacher import Teacher as Known
    from splitrail.models.detector import for_inference, preprocess_of, random_detector
    from splitrail.models.rcnn_config import RcnnConfig
    from splitrail.stages.scene_folder import write_coco_folder
    from splitrail.stages.scenery.classes import CLASSES

    classes = ("background", *CLASSES)
    rcnn = RcnnConfig(depth=18, num_classes=len(classes), width=4, fpn=8, box_head=8)
    known = Known(for_inference(random_detector(rcnn, 1)), "small-rcnn", classes, preprocess_of(rcnn, (64, 80)))
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: known)
    out = tmp_path / "student"
    assert _main("distill", "ghnd", "--teacher", "known", "--out", out, "--config", config, "--device", "cpu") == 0
    capsys.readouterr()
    assert _main("evaluate", out, "--num-images", 3, "--data", "scenes:size=64x80", "--json") == 0
    of_scenes = json.loads(capsys.readouterr().out)
    assert (of_scenes["num_images"], "background" in of_scenes["per_class"]) == (3, False)
    write_coco_folder(tmp_path / "data", 3, (64, 80), split="test")
    assert _main("evaluate", out, "--num-images", 3, "--data", tmp_path / "data", "--json") == 0
    of_folder = json.loads(capsys.readouterr().out)
    assert of_folder["num_objects"] == of_scenes["num_objects"] > 0


_SMALL = dataclasses.replace(
    distill_table.QUICK,
    num_images=8,
    images_per_epoch=4,
    validation_images=8,
    wires=("uint8", "uint4+zstd"),
    qualities=(50,),
    scales=(1.0,),
    slimmable=(4, (0.5, 1.0)),
    slimmable_wires=("uint8", "uint4"),
    recalibrate_images=8,
)


def test_what_does_not_fit_into_the_time_is_named_and_done_later(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distill_table, "QUICK", _SMALL)
    arguments = ["distill", "table", "--quick", "--part", "slimmable", "--teacher", teacher, "--out", tmp_path]
    arguments += ["--device", "cpu", "--threads", 1]
    assert _main(*arguments, "--minutes", 1e-6) == 0
    text = capsys.readouterr().out
    assert "Not there: slimmable, 4 channels: the time was up before it began" in text
    assert json.loads((tmp_path / ROWS).read_text())["slimmable"]["rows"] == []
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_a_training_that_is_stopped_goes_on(
    teacher: Path, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from splitrail.distill.student_recipe import StudentRecipe
    from splitrail.launch import distill as verbs

    recipe = StudentRecipe.load(config, "hnd", {"teacher": str(teacher), "checkpoint_every_s": 0})
    cpu = verbs.torch_device("cpu")
    begin = verbs.time.monotonic()
    with pytest.raises(verbs.OutOfTime, match="at epoch 1 of 1, batch 1 of 2"):
        verbs.distil(recipe, tmp_path, False, cpu, 1, 1, Console(quiet=True), until=begin)
    assert not (tmp_path / "result.json").exists()
    result = verbs.distil(recipe, tmp_path, (tmp_path / "last.safetensors").is_file(), cpu, 1, 1, Console(quiet=True))
    assert result["steps"] == 2


def _table_of(
    teacher: Path, out: Path, keys: tuple[str, ...], patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[Row]:
    """The rows of those slimmable students and of the teacher itself."""
    from splitrail.launch import table_bench

    plan = dataclasses.replace(_SMALL, num_images=3, validation_images=3, plain_wires=("uint8",))
    students = [student for student in slimmable_students(plan, is_detr=True) if student.key in keys]
    assert len(students) == len(keys)
    patch.setattr(distill_table, "QUICK", plan)
    patch.setattr(table_bench, "slimmable_students", lambda *_, **__: students)
    arguments = ("distill", "table", "--quick", "--part", "slimmable", "--teacher", teacher, "--out", out)
    capsys.readouterr()
    assert _main(*arguments, "--device", "cpu", "--threads", 1) == 0
    text = (out / TABLE).read_text()
    assert capsys.readouterr().out == f"{text}\n"
    saved = json.loads((out / ROWS).read_text())["slimmable"]
    assert saved["missing"] == []
    rows = [Row(**row) for row in saved["rows"]]
    for row in rows:
        assert f"| {row.name} | 1 | 0 | {row.wire} | " in text
    return rows


def test_one_student_becomes_rows_of_the_table(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {(row.family, row.wire): row for row in _table_of(teacher, tmp_path, ("alone-4",), monkeypatch, capsys)}
    naive = [("naive split", wire) for wire in ("fp32", "uint8")]
    assert list(rows) == [*naive, *((ONE_BY_ONE, wire) for wire in ("uint8", "uint4"))]
    # A byte per element of four channels at stride 16 of 64x80 pixels, and of the teacher's sixteen, with scale and alignment.
    narrow, wide = rows[ONE_BY_ONE, "uint8"].bytes_per_frame, rows["naive split", "uint8"].bytes_per_frame
    assert 4 * 4 * 5 < narrow < 16 * 4 * 5 < wide
    result = json.loads((tmp_path / "alone-4" / "result.json").read_text())
    assert result["held_out"]["num_images"] == 3
    (folder,) = (tmp_path / "bundles").glob("alone-4-*")
    bundle = Bundle.load(folder)
    assert bundle.stages[0].wire_tensors == ("bottleneck",)
    assert rows[ONE_BY_ONE, "uint8"].num_parameters == sum(stage.num_parameters for stage in bundle.stages)


def test_the_teacher_of_the_table_may_be_a_bundle(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "bundle", tmp_path / "table"
    # Cut elsewhere than the table cuts, and with a suppression that the other rows have not.
    options = ("--cut", "l0", "--nms-iou", 0.6, "--torch", "--golden-frames", 1)
    assert _main("export", teacher, *options, "--out", source) == 0
    rows = _table_of(source, out, (), monkeypatch, capsys)
    assert [(row.family, row.wire) for row in rows] == [("naive split", "fp32"), ("naive split", "uint8")]
    given, (plain,) = Bundle.load(source), (Bundle.load(folder) for folder in (out / "bundles").glob("teacher-*"))
    assert (given.stages[0].wire_tensors, plain.stages[0].wire_tensors) == (("l0",), ("features",))
    assert (given.postprocess.nms_iou, plain.postprocess.nms_iou) == (0.6, None)
    assert (plain.detector, plain.trained, plain.classes) == (given.detector, given.trained, given.classes)
    assert plain.preprocess == given.preprocess


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_table_has_every_experiment_and_goes_on_where_it_was(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distill_table, "QUICK", _SMALL)
    arguments = ["distill", "table", "--quick", "--teacher", teacher, "--out", tmp_path]
    arguments += ["--device", "cpu", "--threads", 1]
    assert _main(*arguments) == 0
    text = capsys.readouterr().out
    saved = json.loads((tmp_path / ROWS).read_text())
    assert saved["distillation"]["missing"] == saved["slimmable"]["missing"] == []
    rows = saved["distillation"]["rows"]
    assert {(row["family"], row["wire"]) for row in rows} == {
        *(("naive split", wire) for wire in ("fp32", "fp16", "uint8")),
        ("JPEG offload", "jpeg"),
        ("raw offload", "raw"),
        *((family, wire) for family in ("SSKD backbone", "fewer encoder layers") for wire in ("fp16", "uint8")),
        *((family, wire) for family in ("HND", "GHND", "bottleneck at the projection") for wire in _SMALL.wires),
        ("without filter, on the same images", "uint8"),
        ("with filter", "uint8"),
    }
    by_wire = {row["wire"]: row["bytes_per_frame"] for row in rows if row["family"] == "GHND"}
    assert by_wire["uint8"] > by_wire["uint4+zstd"] > 0
    slim = saved["slimmable"]["rows"]
    assert {(row["family"], row["wire"], row["width"]) for row in slim if row["family"] != "naive split"} == {
        *(
            (family, wire, width)
            for family in (SLIMMABLE, COMPUTATION, TAKEN_ANEW)
            for wire in ("uint8", "uint4")
            for width in (0.5, 1.0)
        ),
        *((ONE_BY_ONE, wire, 1.0) for wire in ("uint8", "uint4")),
    }
    by_width = {row["width"]: row for row in slim if (row["family"], row["wire"]) == (SLIMMABLE, "uint8")}
    alone = {row["name"]: row for row in slim if (row["family"], row["wire"]) == (ONE_BY_ONE, "uint8")}
    assert by_width[0.5]["bytes_per_frame"] == alone["alone, 2 channels"]["bytes_per_frame"]
    assert by_width[1.0]["bytes_per_frame"] == alone["alone, 4 channels"]["bytes_per_frame"]
    before = (tmp_path / "ghnd-3-seed0" / "last.safetensors").stat().st_mtime_ns
    assert _main(*arguments) == 0
    assert capsys.readouterr().out == text
    assert (tmp_path / "ghnd-3-seed0" / "last.safetensors").stat().st_mtime_ns == before
    assert _main(*arguments, "--epochs", 2) == 2
    assert "trained by another recipe (epochs:" in capsys.readouterr().err.replace("\n", " ")
