"""The training of a slimmable bottleneck, from a recipe to a checkpoint that is judged at every width."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from splitrail.bench.pictures import ScenePictures
from splitrail.distill.checkpoint import BEST, LAST, Checkpoint
from splitrail.distill.distillation import RESULT
from splitrail.distill.evaluate import evaluate_kinds
from splitrail.distill.evaluate_widths import evaluate_widths
from splitrail.distill.finished import load_finished
from splitrail.distill.loop import Progress
from splitrail.distill.sandwich import NARROWEST, WIDEST
from splitrail.distill.slimmable_trainer import RECALIBRATED, SlimmableTrainer
from splitrail.distill.student_recipe import StudentOptimiser, StudentRecipe
from splitrail.launch.distill import recipe_path
from splitrail.models.slimmable import WIDTHS, set_width, sliced, widths_of
from splitrail.pipeline.errors import ConfigError

pytestmark = pytest.mark.timeout(600)  # training is slow on a busy machine

_STUDENT = {
    "bottleneck": 4,
    "bottleneck_at": "projection",
    "widths": (0.25, 0.5, 0.75, 1.0),
    "num_widths": 3,
    "recalibrate_images": 4,
}


class _Stop(Exception):
    pass


def _stop_after(num_steps: int) -> Any:
    steps = iter(range(num_steps - 1))

    def watch(event: object) -> None:
        if isinstance(event, Progress) and next(steps, None) is None:
            raise _Stop

    return watch


def test_it_leaves_accuracies_by_width_and_two_checkpoints(tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe("slimmable", student=_STUDENT)
    result = SlimmableTrainer(recipe, tmp_path).run()
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        assert {"loss", "projection", "memory", NARROWEST, WIDEST, "mAP", "mAP@50"} <= record.keys()
        assert list(record["widths"]) == ["0.25", "0.5", "0.75", "1"]
        assert record["mAP"] == pytest.approx(fmean(each["mAP"] for each in record["widths"].values()), abs=1e-5)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == sorted([BEST, LAST, RECALIBRATED])
    assert json.loads((tmp_path / RESULT).read_text()) == result
    held_out = result["held_out"]
    assert list(held_out["widths"]) == list(held_out["recalibrated"]["widths"]) == ["0.25", "0.5", "0.75", "1"]

    plain, again = load_finished(tmp_path), load_finished(tmp_path / RECALIBRATED)
    assert plain.name == again.name == "tiny-p4-slimmable"
    assert widths_of(plain.model) == widths_of(again.model) == (0.25, 0.5, 0.75, 1.0)
    before, after = plain.model.state_dict(), again.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed
    assert all(name.startswith("bottleneck.") and name.endswith(kinds) for name in changed)
    arguments = Checkpoint.load(tmp_path / BEST).position.student
    assert arguments is not None
    assert arguments.arguments["widths"] == (0.25, 0.5, 0.75, 1.0)
    assert arguments.arguments["configurable"] == "bandwidth"


def test_a_resumed_one_ends_as_an_unbroken_one(tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe("slimmable", student=_STUDENT, checkpoint_every_s=0)
    unbroken = SlimmableTrainer(recipe, tmp_path / "unbroken")
    wanted = unbroken.run()
    with pytest.raises(_Stop):
        SlimmableTrainer(recipe, tmp_path / "broken", watch=_stop_after(3)).run()
    torch.manual_seed(99)
    resumed = SlimmableTrainer(recipe, tmp_path / "broken", checkpoint=Checkpoint.load(tmp_path / "broken"))
    assert 0 < resumed.position.step < 3
    assert resumed.run() == wanted
    before, after = unbroken.learner.state_dict(), resumed.learner.state_dict()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []


def test_each_width_is_judged_as_its_fixed_network(tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe("slimmable", student={**_STUDENT, "configurable": "computation"}, epochs=(1,))
    SlimmableTrainer(recipe, tmp_path).run()
    model, preprocess, _, _ = load_finished(tmp_path)
    pictures = ScenePictures((96, 120), 5, "test", 3)
    found = evaluate_widths(model, pictures, 3, preprocess)
    assert list(found) == [0.25, 0.5, 0.75, 1.0]
    for width, accuracy in found.items():
        assert evaluate_kinds(sliced(model, width), pictures, 3, preprocess) == accuracy
    set_width(model, 0.5)
    assert evaluate_kinds(model, pictures, 3, preprocess) == found[0.5]


def test_an_rcnn_and_an_efficientdet_become_slimmable(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splitrail.distill import student_trainer
    from splitrail.distill.teacher import Teacher
    from splitrail.models.detector import Config, for_inference, num_labels, preprocess_of, random_detector
    from splitrail.models.efficientdet_config import EfficientDetConfig
    from splitrail.models.rcnn_config import RcnnConfig
    from splitrail.stages.scenery.classes import CLASSES

    classes = ("background", *CLASSES)
    cases: dict[str, tuple[Config, str]] = {
        "rcnn": (RcnnConfig(depth=18, num_classes=len(classes), width=4, fpn=8, box_head=8), "layer1"),
        "efficientdet": (EfficientDetConfig(num_classes=len(CLASSES), size=(128, 128)), "p3"),
    }
    for family, (config, at) in cases.items():
        assert num_labels(config) == len(classes)
        size = (128, 128)
        model = for_inference(random_detector(config, 1))
        teacher = Teacher(model, family, classes, preprocess_of(config, size))
        monkeypatch.setattr(student_trainer, "load_teacher", lambda *_, teacher=teacher: teacher)
        student = {"bottleneck": 4, "bottleneck_at": at, "widths": (0.5, 1.0), "num_widths": 2}
        data = {"images_per_epoch": 2, "validation_images": 2, "held_out_images": 2}
        recipe = make_recipe("slimmable", epochs=(1,), student=student, data=data)
        out = tmp_path / family
        trainer = SlimmableTrainer(recipe, out)
        result = trainer.run()
        assert list(result["held_out"]["widths"]) == ["0.5", "1"]
        finished = load_finished(out)
        assert widths_of(finished.model) == (0.5, 1.0)
        state = trainer.learner.student.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in finished.model.state_dict().items())


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"widths": (0.5, 0.25)}, "the largest being 1"),
        ({"widths": (0.5, 0.5, 1.0)}, "different fractions"),
        ({"widths": (1.0,)}, "at least two widths"),
        ({"widths": (0.0, 1.0)}, "above 0"),
        ({"num_widths": 1}, "student.num_widths"),
        ({"configurable": "both"}, "student.configurable"),
        ({"recalibrate_images": -1}, "student.recalibrate_images"),
    ],
)
def test_a_student_that_cannot_be_names_the_key(make_recipe: Any, student: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_recipe("slimmable", student=student)


def test_the_published_presets_are_those_of_the_paper() -> None:
    for name, lr, drops, configurable in (
        ("slimmable", 5e-4, (3, 6, 9), "bandwidth"),
        ("slimmable-computation", 1e-4, (2, 4, 6, 8, 10), "computation"),
    ):
        recipe = StudentRecipe.load(recipe_path(name), "slimmable", {"teacher": "t"})
        assert (recipe.epochs, recipe.batch_size) == ((12,), 8)
        student, optimiser = recipe.student, recipe.optimiser
        assert (student.bottleneck, student.bottleneck_at, student.configurable) == (48, "p3", configurable)
        assert (optimiser.method, optimiser.lr, optimiser.drops, optimiser.drop_to) == ("adam", lr, drops, 0.5)
    assert StudentRecipe.load(recipe_path("slimmable"), "slimmable", {"teacher": "t"}).student.widths == WIDTHS


def test_the_rate_is_halved() -> None:
    recipe = StudentOptimiser(drops=(3, 6, 9), drop_to=0.5)
    assert [recipe.factor(epoch * 10, 10, 12) for epoch in (0, 3, 6, 9)] == [1, 0.5, 0.25, 0.125]


def test_a_folder_is_shown_part_by_part(tmp_path: Path) -> None:
    from splitrail.bench.coco_pictures import CocoPictures
    from splitrail.distill.student_pictures import PartByPart
    from splitrail.stages.scene_folder import write_coco_folder

    write_coco_folder(tmp_path / "data", 5, (64, 80))
    whole = CocoPictures(tmp_path / "data")
    parts = PartByPart(whole, 2)
    assert (len(parts), parts.classes) == (2, whole.classes)
    shown = [parts.picture(index, epoch).image for epoch in range(3) for index in range(2)]
    for number, image in enumerate(shown):
        assert (image == whole.picture(number % 5, 0).image).all()
    assert len(PartByPart(whole, 9)) == 5
