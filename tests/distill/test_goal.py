"""Masks and keypoints are judged beside the boxes, and the checkpoint is chosen by what the recipe names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitrail.bench.pictures import Picture, ScenePictures
from splitrail.distill import evaluate, student_trainer
from splitrail.distill.checkpoint import BEST, Checkpoint
from splitrail.distill.distillation import RESULT
from splitrail.distill.evaluate import evaluate_detector, evaluate_kinds
from splitrail.distill.finished import load_finished
from splitrail.distill.slimmable_trainer import SlimmableTrainer
from splitrail.distill.student_trainer import StudentTrainer
from splitrail.distill.teacher import Teacher
from splitrail.launch.cli import main
from splitrail.models.detector import for_inference, preprocess_of, random_detector
from splitrail.models.rcnn_config import RcnnConfig, RcnnKind
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.detections import Detections
from splitrail.stages.masks import Masks, encode_mask
from splitrail.stages.scene_folder import write_coco_folder
from splitrail.stages.scenery.classes import CLASSES

pytestmark = pytest.mark.timeout(600)  # training is slow on a busy machine

_SIZE = (64, 80)
_CLASSES = ("background", *CLASSES)
_FEW = {"images_per_epoch": 2, "validation_images": 2, "held_out_images": 2}
_TABLES = {"mask": "masks", "keypoint": "keypoints"}


def _teacher(kind: RcnnKind, num_keypoints: int = 5) -> Teacher:
    """The scenes' objects have five keypoints."""
    narrow: dict[str, Any] = {"width": 4, "fpn": 8, "box_head": 8, "num_proposals": 20}
    config = RcnnConfig(kind, depth=18, num_classes=len(_CLASSES), num_keypoints=num_keypoints, **narrow)
    return Teacher(for_inference(random_detector(config, 1)), f"small-{kind}", _CLASSES, preprocess_of(config, _SIZE))


@pytest.fixture(scope="module")
def teachers() -> dict[str, Teacher]:
    return {kind: _teacher(kind) for kind in ("faster", "mask", "keypoint")}


class _Known:
    """Blank pictures with what was detected in others as their truth."""

    classes = _CLASSES

    def __init__(self, images: Sequence[Any], truth: Sequence[Detections]) -> None:
        self._images, self._truth = images, truth

    def __len__(self) -> int:
        return len(self._images)

    def picture(self, index: int, epoch: int) -> Picture:
        truth = self._truth[index]
        return Picture(self._images[index], truth.boxes, truth.labels, masks=truth.masks, keypoints=truth.keypoints)


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_shapes_are_judged_apart_from_the_boxes(
    teachers: dict[str, Teacher], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _, preprocess = teachers[kind]
    images = [ScenePictures(_SIZE, 5, "test", 2).picture(index, 0).image for index in range(2)]
    found: list[Detections] = []
    judge = evaluate.evaluate_all

    def listen(truth: Any, detections: Sequence[Detections], num_classes: int) -> Any:
        found.extend(detections)
        return judge(truth, detections, num_classes)

    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate_all", listen)
        assert set(evaluate_kinds(model, _Known(images, [none, none]), 2, preprocess)) == {"bbox"}
    assert all(len(each) > 1 for each in found)

    def truth_of(each: Detections, *, spoilt: bool) -> Detections:
        """What was detected; `spoilt` has the same boxes, and shapes that are elsewhere."""
        masks, points = each.masks, each.keypoints
        if masks is not None and spoilt:
            pixel = encode_mask(np.ones((1, 1), np.bool_), (0, 0), masks.size)
            masks = Masks(masks.size, (pixel,) * len(masks))
        if points is not None:
            points = points.copy()
            points[:, :, :2] += 40 if spoilt else 0
            points[:, :, 2] = 2
        return Detections(each.boxes, each.scores, each.labels, masks, points)

    name = {"mask": "segm", "keypoint": "keypoints"}[kind]
    for spoilt in (False, True):
        pictures = _Known(images, [truth_of(each, spoilt=spoilt) for each in found])
        accuracies = evaluate_kinds(model, pictures, 2, preprocess)
        assert set(accuracies) == {"bbox", name}
        boxes, shapes = accuracies["bbox"].map, accuracies[name].map  # type: ignore[index]
        assert boxes == pytest.approx(1)
        assert shapes is not None
        assert (shapes < 0.9) if spoilt else (shapes == pytest.approx(1))
        assert evaluate_detector(model, pictures, 2, preprocess) == accuracies["bbox"]


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_a_student_is_judged_by_all_that_it_gives(
    teachers: dict[str, Teacher], kind: str, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teachers[kind])
    trainer = StudentTrainer(make_recipe("ghnd", goal=kind, epochs=(1,), data={"images_per_epoch": 2}), tmp_path)
    result = trainer.run()
    table = _TABLES[kind]
    (record,) = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    saved = json.loads((tmp_path / RESULT).read_text())
    assert saved == result
    assert saved["goal"] == f"{table}.mAP"
    for judged, num_images in ((record, 4), (saved["held_out"], 3)):
        assert judged["num_images"] == judged[table]["num_images"] == num_images
        assert judged["num_objects"] == judged[table]["num_objects"] > 0
        assert {"mAP", "mAP@50", "mAP@75", "per_class"} <= judged[table].keys()
    assert saved["validation"] == record[table]["mAP"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert trainer.pictures.training.picture(0, 0).masks is None  # nobody learns from them


def test_every_width_has_masks_of_its_own(
    teachers: dict[str, Teacher],
    tmp_path: Path,
    make_recipe: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teachers["mask"])
    student = {"bottleneck": 4, "widths": (0.5, 1.0), "num_widths": 2}
    recipe = make_recipe("slimmable", goal="mask", epochs=(1,), student=student, data=_FEW)
    trainer = SlimmableTrainer(recipe, tmp_path)
    result = trainer.run()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path), "--data", "scenes:size=64x80", "--num-images", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["masks"]["mAP"] is not None
    for judged in (trainer.position.history[0], result["held_out"]):
        masks = [each["masks"]["mAP"] for each in judged["widths"].values()]
        assert judged["masks"]["mAP"] == pytest.approx(np.mean(masks), abs=1e-5)
    assert result["validation"] == trainer.position.history[0]["masks"]["mAP"]


@pytest.mark.parametrize(("goal", "epoch"), [("box", 3), ("mask", 2)])
def test_the_checkpoint_is_chosen_by_the_goal(
    teachers: dict[str, Teacher],
    goal: str,
    epoch: int,
    tmp_path: Path,
    make_recipe: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = iter(((0.1, 0.2), (0.2, 0.5), (0.3, 0.4)))

    def judge(_: StudentTrainer) -> dict[str, Any]:
        boxes, masks = (dict.fromkeys(("mAP", "mAP@50", "mAP@75"), value) for value in next(reached))
        return {**boxes, "masks": masks}

    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teachers["mask"])
    monkeypatch.setattr(StudentTrainer, "_judge", judge)
    result = StudentTrainer(make_recipe("hnd", goal=goal, epochs=(3,), data=_FEW), tmp_path).run()
    assert result["validation"] == {"box": 0.3, "mask": 0.5}[goal]
    assert Checkpoint.load(tmp_path / BEST).position.epoch == load_finished(tmp_path).position.epoch == epoch


@pytest.mark.parametrize(
    ("kind", "goal", "message"),
    [
        ("faster", "mask", "small-faster gives no masks to choose a checkpoint by; give a Mask R-CNN"),
        ("mask", "keypoint", "small-mask gives no keypoints to choose a checkpoint by; give a Keypoint R-CNN"),
    ],
)
def test_a_detector_without_what_is_asked_for_is_refused(
    teachers: dict[str, Teacher],
    kind: str,
    goal: str,
    message: str,
    tmp_path: Path,
    make_recipe: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teachers[kind])
    with pytest.raises(ConfigError, match=message):
        StudentTrainer(make_recipe("hnd", goal=goal), tmp_path)
    with pytest.raises(ConfigError, match="chosen by its AUC"):
        make_recipe("filter", goal=goal)


def _without_shapes(folder: Path, images: slice) -> Path:
    """A folder of four scenes, some without masks and keypoints."""
    write_coco_folder(folder, 4, _SIZE, split="test")
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    numbers = {image["id"] for image in content["images"][images]}
    for entry in content["annotations"]:
        if entry["image_id"] in numbers:
            entry.update(segmentation=[], keypoints=[])
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_images_without_the_truth_of_the_goal_are_refused_at_once(
    teachers: dict[str, Teacher], kind: str, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teachers[kind])
    plain = str(_without_shapes(tmp_path / "data", slice(None)))
    for which, told in (("validation", "validation"), ("held_out", "held-out")):
        with pytest.raises(ConfigError, match=f"not all {told} images have {kind}s"):
            StudentTrainer(make_recipe("hnd", goal=kind, data={which: plain}), tmp_path / "out")
    # Boxes can be judged on them all the same.
    recipe = make_recipe("hnd", epochs=(1,), data={"images_per_epoch": 2, "validation": plain})
    trainer = StudentTrainer(recipe, tmp_path / "boxes")
    assert _TABLES[kind] in trainer.run()["held_out"]
    assert _TABLES[kind] not in trainer.position.history[0]


def test_a_later_image_without_the_truth_of_the_goal_ends_the_training(
    teachers: dict[str, Teacher], tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teachers["mask"])
    mixed = str(_without_shapes(tmp_path / "data", slice(-1, None)))
    trainer = StudentTrainer(make_recipe("hnd", goal="mask", data={"validation": mixed}), tmp_path / "out")
    with pytest.raises(ConfigError, match="not all validation images have masks"):
        trainer.run()


def test_other_keypoints_than_the_detectors_are_refused_at_once(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = _teacher("keypoint", 3)
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teacher)
    with pytest.raises(ConfigError, match="finds 3 keypoints of an object and the validation images have 5"):
        StudentTrainer(make_recipe("hnd"), tmp_path)
