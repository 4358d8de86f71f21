from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from splitrail.bench.pictures import ScenePictures
from splitrail.distill.checkpoint import BEST, LAST, Checkpoint, CheckpointError
from splitrail.distill.distillation import RESULT
from splitrail.distill.evaluate import evaluate_detector
from splitrail.distill.finished import export_checkpoint, load_filter, load_finished
from splitrail.distill.loop import Progress, TrainingError
from splitrail.distill.student_recipe import StudentOptimiser, StudentRecipe
from splitrail.distill.student_trainer import StudentTrainer
from splitrail.distill.teacher import load_teacher
from splitrail.launch.distill import presets, recipe_path
from splitrail.pipeline.errors import ConfigError

pytestmark = pytest.mark.timeout(600)  # training is slow on a busy machine


class _Stop(Exception):
    pass


def _stop_after(num_steps: int) -> Any:
    steps = iter(range(num_steps - 1))

    def watch(event: object) -> None:
        if isinstance(event, Progress) and next(steps, None) is None:
            raise _Stop

    return watch


def _records(trainer: StudentTrainer) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in trainer.position.history]


def test_a_distillation_leaves_records_curves_checkpoints_and_a_result(tmp_path: Path, make_recipe: Any) -> None:
    trainer = StudentTrainer(make_recipe("ghnd"), tmp_path)
    result = trainer.run()
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all({"loss", "layer1", "layer4", "lr", "mAP", "seconds"} <= record.keys() for record in records)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [BEST, LAST]
    assert json.loads((tmp_path / RESULT).read_text()) == result
    assert (result["task"], result["steps"], result["held_out"]["num_images"]) == ("ghnd", 4, 3)


@pytest.mark.parametrize(
    ("task", "num_steps"),
    [("ghnd", 3), ("sskd", 3), ("sskd", 4)],
    ids=["within a phase", "within the second stage", "between stages"],
)
def test_a_resumed_distillation_ends_as_an_unbroken_one(
    tmp_path: Path, make_recipe: Any, task: str, num_steps: int
) -> None:
    recipe = make_recipe(task, checkpoint_every_s=0)
    unbroken = StudentTrainer(recipe, tmp_path / "unbroken")
    wanted = unbroken.run()
    with pytest.raises(_Stop):
        StudentTrainer(recipe, tmp_path / "broken", watch=_stop_after(num_steps)).run()
    torch.manual_seed(99)
    resumed = StudentTrainer(recipe, tmp_path / "broken", checkpoint=Checkpoint.load(tmp_path / "broken"))
    assert 0 < resumed.position.step < num_steps
    found = resumed.run()
    before, after = unbroken.learner.state_dict(), resumed.learner.state_dict()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    assert _records(unbroken) == _records(resumed)
    assert wanted == found


def test_another_seed_is_another_student_and_the_same_seed_the_same(tmp_path: Path, make_recipe: Any) -> None:
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer = StudentTrainer(make_recipe("hnd", seed=seed, epochs=(1,)), tmp_path / name)
        trainer.run()
        states.append(trainer.learner.state_dict()["student.backbone.conv1.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_only_the_finished_student_sees_the_images_held_out(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    picture = ScenePictures.picture

    def watched(self: ScenePictures, index: int, epoch: int) -> Any:
        shown.append(self.split)
        return picture(self, index, epoch)

    monkeypatch.setattr(ScenePictures, "picture", watched)
    trainer = StudentTrainer(make_recipe("ghnd"), tmp_path)
    best: list[bytes] = []
    judge = StudentTrainer.judge_held_out

    def finished(self: StudentTrainer) -> dict[str, Any]:
        assert set(shown) == {"train"}
        best.append((tmp_path / BEST).read_bytes())
        return judge(self)

    monkeypatch.setattr(StudentTrainer, "judge_held_out", finished)
    trainer.run()
    assert shown.count("test") == 3
    assert best == [(tmp_path / BEST).read_bytes()]


def test_the_best_checkpoint_on_the_validation_images_is_the_student(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = iter((0.2, 0.5, 0.4))
    monkeypatch.setattr(StudentTrainer, "_judge", lambda _: dict.fromkeys(("mAP", "mAP@50", "mAP@75"), next(reached)))
    trainer = StudentTrainer(make_recipe("hnd", epochs=(3,)), tmp_path)
    result = trainer.run()
    assert (trainer.position.best, result["validation"]) == (0.5, 0.5)
    assert load_finished(tmp_path).position.epoch == 2
    chosen = Checkpoint.load(tmp_path / BEST).part("learner.student")
    assert all(torch.equal(value, chosen[name]) for name, value in trainer.learner.student.state_dict().items())


@pytest.mark.parametrize(("task", "at"), [("sskd", "layer1"), ("hnd", "layer1"), ("ghnd", "projection")])
def test_a_student_is_exported_and_judged_as_it_was_trained(
    tmp_path: Path, make_recipe: Any, task: str, at: str
) -> None:
    recipe = make_recipe(
        task, epochs=(1,) * (4 if task == "sskd" else 1), student={"bottleneck": 3, "bottleneck_at": at}
    )
    StudentTrainer(recipe, tmp_path / "student").run()
    model, preprocess, position, name = load_finished(tmp_path / "student")
    teacher = load_teacher(recipe.teacher)
    assert name == {"sskd": "tiny-r18w4", "hnd": "tiny-b3", "ghnd": "tiny-p3"}[task]
    assert preprocess == teacher.preprocess
    assert position.classes == teacher.classes
    bundle = export_checkpoint(tmp_path / "student", tmp_path / "bundle")
    assert bundle.detector == name
    assert f"{task} of tiny" in bundle.trained
    if task != "sskd":
        assert bundle.stages[0].wire_tensors == ("bottleneck",)

    from splitrail.bench.bundle_accuracy import evaluate_bundle

    pictures = ScenePictures((96, 120), 5, "test", 3)
    in_torch = evaluate_detector(model, pictures, 3, preprocess)
    exported = evaluate_bundle(tmp_path / "bundle", pictures, 3)
    assert exported.boxes.num_objects == in_torch.num_objects > 0
    assert exported.boxes.map == pytest.approx(in_torch.map, abs=1e-3)


def test_an_rcnn_learns_and_is_judged(tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from splitrail.distill import student_trainer
    from splitrail.distill.teacher import Teacher
    from splitrail.models.detector import for_inference, preprocess_of, random_detector
    from splitrail.models.rcnn_config import RcnnConfig
    from splitrail.stages.scenery.classes import CLASSES

    classes = ("background", *CLASSES)
    config = RcnnConfig(depth=18, num_classes=len(classes), width=4, fpn=8, box_head=8)
    teacher = Teacher(for_inference(random_detector(config, 1)), "small-rcnn", classes, preprocess_of(config, (64, 80)))
    monkeypatch.setattr(student_trainer, "load_teacher", lambda *_: teacher)
    trainer = StudentTrainer(make_recipe("ghnd", epochs=(1,)), tmp_path)
    result = trainer.run()
    assert result["held_out"]["num_images"] == 3
    student = load_finished(tmp_path)
    assert student.preprocess.kind == "rcnn"
    state = trainer.learner.student.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in student.model.state_dict().items())


def test_half_precision_trains_float32_weights(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also where it is slower, which is otherwise refused.
    monkeypatch.setattr("splitrail.distill.loop._check_precision", lambda *_: None)
    losses = {}
    for precision in ("fp32", "bf16"):
        recipe = make_recipe("ghnd", epochs=(1,), optimiser={"precision": precision})
        trainer = StudentTrainer(recipe, tmp_path / precision)
        trainer.run()
        losses[precision] = trainer.position.history[0]["layer4"]
        assert all(value.dtype == torch.float32 for value in trainer.learner.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.1)
    assert losses["bf16"] != losses["fp32"]


def test_a_loss_that_is_no_number_stops_before_it_is_used(tmp_path: Path, make_recipe: Any) -> None:
    trainer = StudentTrainer(make_recipe("hnd"), tmp_path)
    weight = trainer.learner.student.get_submodule("backbone.conv1").weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="gradient became nan at step 1"):
        trainer.run()
    assert torch.equal(weight, before)


def test_the_rate_follows_the_published_schedule() -> None:
    recipe = StudentOptimiser(drops=(5, 15), warm_up_epochs=1)
    factors = [recipe.factor(step, 10, 20) for step in range(200)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10] == factors[49] == 1
    assert factors[50] == factors[149] == pytest.approx(0.1)
    assert factors[150] == factors[199] == pytest.approx(0.01)
    cosine = StudentOptimiser(decay="cosine")
    assert cosine.factor(5, 10, 1) == pytest.approx(0.5)


def test_another_number_of_epochs_moves_the_drops(make_recipe: Any) -> None:
    recipe = make_recipe("hnd", epochs=(20,), optimiser={"drops": (5, 15)}).with_epochs(4)
    assert (recipe.epochs, recipe.optimiser.drops) == ((4,), (1, 3))


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_a_recipe(name: str) -> None:
    tasks = {"filter": "filter", "backbone": "sskd", "encoder": "encoder", "slimmable": "slimmable"}
    task: Any = tasks.get(name.removeprefix("short-").partition("-")[0], "ghnd")
    recipe = StudentRecipe.load(recipe_path(name), task, {"teacher": "somewhere"})
    assert recipe.task == task
    # A slimmable one says its widths, and no other has any.
    assert ("widths" in recipe.student.model_fields_set) == (task == "slimmable")


def test_the_published_presets_are_those_of_the_papers() -> None:
    for name, epochs, drops in (("bottleneck", 20, (5, 15)), ("keypoints", 35, (9, 27))):
        recipe = StudentRecipe.load(recipe_path(name), "ghnd", {"teacher": "t"})
        assert (recipe.epochs, recipe.optimiser.drops, recipe.batch_size) == ((epochs,), drops, 4)
        optimiser = recipe.optimiser
        assert (optimiser.method, optimiser.lr, optimiser.warm_up_epochs) == ("adam", 1e-3, 1)
        assert recipe.goal == {"bottleneck": "box", "keypoints": "keypoint"}[name]
    recipe = StudentRecipe.load(recipe_path("filter"), "filter", {"teacher": "t"})
    optimiser = recipe.optimiser
    assert (recipe.epochs, optimiser.drops, recipe.batch_size) == ((30,), (15, 25), 2)
    assert (optimiser.method, optimiser.lr, optimiser.momentum, optimiser.weight_decay) == ("sgd", 1e-3, 0.9, 1e-4)
    assert recipe.filter.threshold == 0.1


def test_widths_trained_one_by_one_have_the_schedule_of_the_slimmable_ones() -> None:
    alone = StudentRecipe.load(recipe_path("efficientdet"), "ghnd", {"teacher": "t"})
    slimmable = StudentRecipe.load(recipe_path("slimmable"), "slimmable", {"teacher": "t"})
    optimiser = alone.optimiser
    assert (alone.epochs, alone.batch_size, optimiser.drops, optimiser.drop_to) == ((12,), 6, (3, 6, 9), 0.5)
    assert (optimiser.method, optimiser.lr, slimmable.batch_size) == ("adam", 5e-4, 8)
    assert optimiser == slimmable.optimiser
    assert (alone.student.bottleneck, alone.student.bottleneck_at) == (48, "p3")
    assert (alone.epochs, alone.data) == (slimmable.epochs, slimmable.data)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("sskd", {"epochs": (3,)}, "sskd takes 4 numbers of epochs"),
        ("hnd", {"epochs": (0,)}, "of 1 or more"),
        ("hnd", {"nonsense": 1}, "nonsense"),
        ("hnd", {"optimiser": {"drops": (5, 3)}}, "optimiser.drops"),
        ("hnd", {"student": {"bottleneck": 0}}, "student.bottleneck"),
        ("ghnd", {"student": {"layer_weights": (0, 0)}}, "at least one above 0"),
        ("filter", {"filter": {"labels": "keypoints"}, "data": {"crop": 0.5}}, "data.crop"),
        ("filter", {"filter": {"threshold": 1.5}}, "filter.threshold"),
    ],
)
def test_a_recipe_that_does_not_fit_names_the_key(
    make_recipe: Any, task: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_recipe(task, **changes)


@pytest.mark.parametrize("other", ["data/val", "./data/val", "data/val/", "data/../data/val", "linked"])
def test_one_folder_is_not_taken_for_two(
    other: str, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitrail.stages.scene_folder import write_coco_folder

    write_coco_folder(tmp_path / "data" / "val", 2, (64, 80))
    (tmp_path / "linked").symlink_to(tmp_path / "data" / "val")
    monkeypatch.chdir(tmp_path)
    for first, second in (("train", "held_out"), ("train", "validation"), ("validation", "held_out")):
        with pytest.raises(ConfigError, match="must not be the same"):
            StudentTrainer(make_recipe("hnd", data={first: "data/val", second: other}), tmp_path / "out")


def test_checkpoints_of_other_trainings_are_refused(tmp_path: Path, make_recipe: Any, teacher_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="of a training; go on from it with 'splitrail train'"):
        StudentTrainer(make_recipe("hnd"), tmp_path, checkpoint=Checkpoint.load(teacher_folder))
    trainer = StudentTrainer(make_recipe("hnd"), tmp_path)
    trainer._save(LAST)
    checkpoint = Checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="of a distillation; go on from it with 'splitrail distill'"):
        _ = checkpoint.position.training
    with pytest.raises(ConfigError, match="another distillation"):
        StudentTrainer(make_recipe("ghnd"), tmp_path, checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="no neural filter"):
        load_filter(tmp_path)


def test_a_teacher_has_to_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file, no folder and no detector's name"):
        load_teacher(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="random weights, which teach nothing"):
        load_teacher("detr-resnet-50")


def test_a_bundle_with_torch_weights_is_a_teacher(tmp_path: Path, teacher_folder: Path) -> None:
    from splitrail.models.export import ExportOptions

    export_checkpoint(teacher_folder, tmp_path / "with", ExportOptions(include_torch=True))
    export_checkpoint(teacher_folder, tmp_path / "without")
    of_bundle, of_training = load_teacher(str(tmp_path / "with")), load_teacher(str(teacher_folder), size=(96, 128))
    assert of_bundle[1:] == load_teacher(str(teacher_folder))[1:]
    assert of_training.preprocess.size == (96, 128)
    wanted = of_training.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in of_bundle.model.state_dict().items())
    with pytest.raises(ConfigError, match="no weights for torch"):
        load_teacher(str(tmp_path / "without"))


def test_labels_of_scenes_follow_those_of_an_rcnn() -> None:
    from splitrail.distill.background import BackgroundFirst

    pictures = ScenePictures((64, 80), 5, "test", 2)
    shifted = BackgroundFirst(pictures)
    assert len(shifted) == 2
    for index in range(2):
        picture, plain = shifted.picture(index, 0), pictures.picture(index, 0)
        assert [shifted.classes[label] for label in picture.labels] == [
            pictures.classes[label] for label in plain.labels
        ]
