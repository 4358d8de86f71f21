"""A small Faster R-CNN is trained, resumed, judged, exported and streamed like a DETR."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from splitrail.bench.bundle_accuracy import evaluate_bundle
from splitrail.bench.coco_pictures import CocoPictures
from splitrail.distill.background import BackgroundFirst
from splitrail.distill.checkpoint import LAST, Checkpoint
from splitrail.distill.evaluate import evaluate_detector
from splitrail.distill.finished import export_checkpoint, load_finished
from splitrail.distill.loop import Progress
from splitrail.distill.recipe import Recipe
from splitrail.distill.teacher import load_teacher
from splitrail.distill.train import Trainer
from splitrail.launch.cli import main
from splitrail.launch.train import recipe_path
from splitrail.models.export import ExportOptions
from splitrail.models.rcnn_config import RcnnConfig
from splitrail.models.weights_error import WeightsError
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.scene_folder import write_coco_folder
from splitrail.stages.scenery.classes import CLASSES

_SIZE = (64, 80)
_RECIPE: dict[str, Any] = {
    "name": "tiny-rcnn",
    "seed": 3,
    "phases": [{"epochs": 2, "size": _SIZE, "batch_size": 4}],
    "model": {
        "family": "rcnn",
        "depth": 18,
        "width": 4,
        "fpn": 16,
        "box_head": 16,
        "anchor": 16,
        "num_proposals": 20,
        "finest_level": 3,
        "num_anchors": 16,
        "num_regions": 16,
    },
    "data": {"validation_images": 4, "workers": 0, "colour": 0.1},
    "optimiser": {"lr": 3e-3, "backbone_lr": 3e-3, "clip_norm": 10.0, "ema_decay": 0.9, "decay": "cosine"},
}
_LOSSES = ("loss", "objectness", "rpn_box_reg", "classifier", "box_reg")


def _recipe(folder: Path, **changes: Any) -> Recipe:
    data = {**_RECIPE["data"], "train": str(folder), "validation": str(folder)}
    values = {**_RECIPE, "data": data}
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(values.get(name), dict) else value
    return Recipe.check(values, "the test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes, in COCO's layout: to make them takes longer than to learn from them."""
    out = tmp_path_factory.mktemp("scenes") / "data"
    write_coco_folder(out, 12, _SIZE)
    return out


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("rcnn") / "training"
    phases = [{"epochs": 8, "size": _SIZE, "batch_size": 4}]
    Trainer(_recipe(folder, phases=phases, evaluate_every_epochs=4), out).run()
    return out


def test_the_losses_fall_and_a_record_is_written_per_epoch(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 9))
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert all(record[name] > 0 for record in records for name in _LOSSES)
    assert [number for number, record in enumerate(records, 1) if "mAP@50" in record] == [4, 8]
    assert set(records[-1]["per_class"]) <= set(CLASSES)  # the background is nothing to find
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


class _Stop(Exception):
    pass


def test_a_resumed_training_ends_as_an_unbroken_one(folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(folder, checkpoint_every_s=0)
    unbroken = Trainer(recipe, tmp_path / "unbroken")
    unbroken.run()

    def stop(event: object) -> None:
        if isinstance(event, Progress) and (event.epoch, event.batch) == (1, 2):
            raise _Stop

    with pytest.raises(_Stop):
        Trainer(recipe, tmp_path / "broken", watch=stop).run()
    torch.manual_seed(99)
    resumed = Trainer(recipe, tmp_path / "broken", checkpoint=Checkpoint.load(tmp_path / "broken"))
    assert resumed.position.step == 4
    resumed.run()
    for wanted, found in (
        (unbroken.learner.state_dict(), resumed.learner.state_dict()),
        (unbroken.detector.state_dict(), resumed.detector.state_dict()),
    ):
        assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []
    losses = [
        [{name: record[name] for name in _LOSSES} for record in each.position.history] for each in (unbroken, resumed)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("cuts", [("l0",), ()], ids=["head and tail", "whole"])
def test_what_was_trained_is_exported_and_streams(
    trained: Path, folder: Path, tmp_path: Path, cuts: tuple[str, ...]
) -> None:
    bundle = export_checkpoint(trained, tmp_path / "bundle", ExportOptions(cuts=cuts))
    assert len(bundle.stages) == len(cuts) + 1
    assert bundle.preprocess.kind == "rcnn"
    assert bundle.preprocess.size == _SIZE
    assert bundle.classes == ("background", *CLASSES)
    assert "24 steps" in bundle.trained
    finished = load_finished(trained)
    pictures = CocoPictures(folder)
    in_torch = evaluate_detector(finished.model, BackgroundFirst(pictures), 4, finished.preprocess)
    exported = evaluate_bundle(tmp_path / "bundle", pictures, 4)
    assert exported.boxes.num_objects == in_torch.num_objects > 0
    assert exported.boxes.map == pytest.approx(in_torch.map, abs=1e-3)


def test_the_averaged_weights_are_what_is_finished(trained: Path) -> None:
    checkpoint, finished = Checkpoint.load(trained), load_finished(trained)
    average = checkpoint.part("average")
    assert all(torch.equal(value, average[name]) for name, value in finished.model.state_dict().items())
    learnt = checkpoint.part("learner.rcnn")
    assert not torch.equal(average["rpn.head.cls_logits.weight"], learnt["rpn.head.cls_logits.weight"])


def test_it_is_a_teacher(trained: Path) -> None:
    teacher = load_teacher(str(trained))
    assert teacher.classes == ("background", *CLASSES)
    assert isinstance(teacher.model.config, RcnnConfig)
    assert (teacher.model.config.norm, teacher.model.config.finest_level) == ("frozen", 3)


def test_a_folder_of_scenes_has_the_labels_of_scenes(folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(_recipe(folder), tmp_path / "out")
    assert trainer.position.classes == ("background", *CLASSES)
    trainer._save(LAST)
    # So a training may go on from a folder to scenes.
    scenes = _recipe(folder, data={"train": "scenes", "validation": "scenes"})
    Trainer(scenes, tmp_path / "out", checkpoint=Checkpoint.load(tmp_path / "out"))


def test_data_of_another_number_of_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    Trainer(_recipe(folder), tmp_path / "out")._save(LAST)
    shutil.copytree(folder, tmp_path / "data")
    content = json.loads((tmp_path / "data" / "annotations.json").read_text())
    content["categories"].append({"id": len(CLASSES), "name": "goblet"})
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(content))
    other = _recipe(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"the checkpoint is of 9 classes and the data has 10"):
        Trainer(other, tmp_path / "out", checkpoint=Checkpoint.load(tmp_path / "out"))


def test_weights_of_another_number_of_classes_are_refused(trained: Path, folder: Path, tmp_path: Path) -> None:
    state = load_finished(trained).model.state_dict()
    predictor = "roi_heads.box_predictor."
    state |= {f"{predictor}cls_score.weight": torch.zeros(5, 16), f"{predictor}cls_score.bias": torch.zeros(5)}
    state |= {f"{predictor}bbox_pred.weight": torch.zeros(20, 16), f"{predictor}bbox_pred.bias": torch.zeros(20)}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="the weights have num_classes = 5, the background included"):
        Trainer(_recipe(folder, model={"weights": str(tmp_path / "other.safetensors")}), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assistance": {"dense": True}}, "assistance is for a DETR"),
        ({"model": {"family": "ssd"}}, "model: family must be detr or rcnn"),
        ({"model": {"num_queries": 5}}, r"the test: model\.num_queries: Extra inputs"),
        ({"model": {"num_regions": 0}}, r"model\.num_regions"),
        ({"model": {"finest_level": 4}}, "cannot begin at level 4"),
        ({"model": {"num_proposals": 0}}, "num_proposals = 0"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _recipe(Path("anywhere"), **changes)


def test_the_preset_is_small() -> None:
    recipe = Recipe.load(recipe_path("rcnn-small"))
    config = recipe.model.config(len(CLASSES) + 1)
    assert isinstance(config, RcnnConfig)
    assert (config.width, config.num_classes, recipe.size) == (16, 9, (192, 256))


def test_the_verb_says_that_it_trains_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "Train a DETR or a Faster R-CNN" in capsys.readouterr().out
