from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitrail.bench.pictures import Picture, ScenePictures
from splitrail.distill.checkpoint import Checkpoint
from splitrail.distill.filter_training import ROC, FilterTrainer, judged, objectness_of
from splitrail.distill.finished import export_checkpoint, load_filter, load_finished
from splitrail.distill.student_pictures import KeypointObjects
from splitrail.distill.teacher import load_teacher
from splitrail.models.export import ExportOptions
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.scene_folder import write_coco_folder

pytestmark = pytest.mark.timeout(600)  # training is slow on a busy machine


def test_a_filter_is_trained_on_a_frozen_stem_and_joins_a_bundle(
    tmp_path: Path, make_recipe: Any, teacher_folder: Path
) -> None:
    recipe = make_recipe("filter", data={"validation_images": 8, "held_out_images": 8})
    trainer = FilterTrainer(recipe, tmp_path / "filter")
    stem = {name: value.clone() for name, value in trainer.learner._detector[0].state_dict().items()}
    before = {name: value.clone() for name, value in trainer.learner.net.state_dict().items()}
    result = trainer.run()
    after = trainer.learner._detector[0].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in stem.items())
    assert not torch.equal(before["head.weight"], trainer.learner.net.state_dict()["head.weight"])

    records = [json.loads(line) for line in (tmp_path / "filter" / "train.jsonl").read_text().splitlines()]
    assert all({"AUC", "threshold", "recall", "filtered", "entropy"} <= record.keys() for record in records)
    assert all(record["recall"] >= recipe.filter.recall for record in records)
    assert (tmp_path / "filter" / ROC).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "filter" / "curves.png").is_file()
    net, threshold, trained = load_filter(tmp_path / "filter")
    assert threshold == result["held_out"]["threshold"]
    assert all(torch.equal(value, trainer.learner.net.state_dict()[name]) for name, value in net.state_dict().items())
    with pytest.raises(ConfigError, match="no detector"):
        load_finished(tmp_path / "filter")

    from splitrail.models.filter_export import add_filter

    export_checkpoint(teacher_folder, tmp_path / "bundle", ExportOptions(cuts=("l0", "projection")))
    bundle = add_filter(tmp_path / "bundle", tmp_path / "filtered", net, threshold, trained=trained)
    assert bundle.filter is not None
    assert bundle.filter.threshold == threshold
    assert "filter for tiny" in bundle.filter.trained


def test_a_resumed_filter_ends_as_an_unbroken_one(tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe("filter", optimiser={"method": "sgd", "lr": 1e-2})
    unbroken = FilterTrainer(recipe, tmp_path / "unbroken")
    unbroken.run()

    def stop(event: object) -> None:
        if isinstance(event, dict):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FilterTrainer(recipe, tmp_path / "broken", watch=stop).run()
    resumed = FilterTrainer(recipe, tmp_path / "broken", checkpoint=Checkpoint.load(tmp_path / "broken"))
    assert resumed.position.epoch == 1
    resumed.run()
    wanted, found = unbroken.learner.state_dict(), resumed.learner.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in wanted.items())


def test_a_filter_learns_what_a_stem_can_tell(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Frames with an object are white, empty ones black: nothing else is left to tell them apart.
    picture = ScenePictures.picture

    def plain(self: ScenePictures, index: int, epoch: int) -> Picture:
        found = picture(self, index, epoch)
        return found._replace(image=np.full_like(found.image, 255 if len(found.labels) else 0))

    monkeypatch.setattr(ScenePictures, "picture", plain)
    recipe = make_recipe(
        "filter",
        epochs=(2,),
        batch_size=4,
        data={"images_per_epoch": 32, "validation_images": 12, "held_out_images": 12, "colour": 0.0},
        optimiser={"method": "sgd", "lr": 0.02},
    )
    trainer = FilterTrainer(recipe, tmp_path)
    result = trainer.run()["held_out"]
    assert (result["AUC"], result["recall"], result["filtered"]) == (1, 1, 1)
    assert 0 < result["num_empty"] < result["num_images"]
    scores, positives = objectness_of(trainer.learner, trainer.pictures.held_out, 12, trainer.preprocess)
    assert scores[positives].min() > scores[~positives].max()


def test_shares_at_a_threshold_by_hand() -> None:
    scores, positives = np.array([0.1, 0.6, 0.7, 0.2, 0.6]), np.array([False, False, True, True, True])
    assert judged(scores, positives, 0.6) == {
        "num_images": 5,
        "num_empty": 2,
        "AUC": round(4.5 / 6, 5),
        "recall": round(2 / 3, 5),
        "filtered": 0.5,
    }


class _Pictures:
    classes = ("a",)

    def __init__(self, keypoints: Any) -> None:
        self._keypoints = keypoints

    def __len__(self) -> int:
        return 1

    def picture(self, index: int, epoch: int) -> Picture:
        boxes = np.array([[0, 0, 4, 4], [4, 4, 8, 8], [2, 2, 6, 6]], np.float32)
        image = np.zeros((8, 8, 3), np.uint8)
        return Picture(image, boxes, np.zeros(3, np.int32), keypoints=self._keypoints)


def test_an_object_counts_by_its_visible_keypoints() -> None:
    seen = np.zeros((3, 2, 3), np.float32)
    seen[0, :, 2] = (2, 2)
    seen[1, :, 2] = (2, 1)
    seen[2, :, 2] = (1, 0)
    for wanted, counted in ((1, 2), (2, 1), (3, 0)):
        found = KeypointObjects(_Pictures(seen), wanted).picture(0, 0)
        assert len(found.labels) == len(found.boxes) == counted
    with pytest.raises(ConfigError, match="no keypoints"):
        KeypointObjects(_Pictures(None), 1).picture(0, 0)


def test_labels_of_scenes_can_be_visible_keypoints(tmp_path: Path, make_recipe: Any) -> None:
    rule = {"labels": "keypoints", "min_keypoints": 5}
    trainer = FilterTrainer(make_recipe("filter", filter=rule), tmp_path)
    assert isinstance(trainer.pictures.training, KeypointObjects)
    plain = FilterTrainer(make_recipe("filter"), tmp_path)
    counts = []
    for index in range(4):
        some = trainer.pictures.training.picture(index, 0)
        every = plain.pictures.training.picture(index, 0)
        counts.append((len(some.labels), len(every.labels)))
    # Of some objects all five are visible, of others not.
    assert all(some <= every for some, every in counts)
    assert 0 < sum(some for some, _ in counts) < sum(every for _, every in counts)


@pytest.mark.parametrize(
    ("data", "message"), [({"empty": 0.0}, "data.empty is 0"), ({"validation_images": 1}, "are all with")]
)
def test_images_of_one_kind_are_refused(tmp_path: Path, make_recipe: Any, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("with", "(with|without)")):
        FilterTrainer(make_recipe("filter", data=data), tmp_path)


def _folder(out: Path, *, mixed: bool) -> str:
    """Six scenes without objects; `mixed`: the last one has some."""
    write_coco_folder(out, 6, (64, 80))
    path = out / "annotations.json"
    content = json.loads(path.read_text())
    last = content["images"][-1]["id"] if mixed else None
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] == last]
    assert bool(content["annotations"]) is mixed
    path.write_text(json.dumps(content))
    return str(out)


@pytest.mark.parametrize(
    ("which", "told"), [("train", "training"), ("validation", "validation"), ("held_out", "held-out")]
)
def test_a_folder_of_one_kind_is_refused_before_the_training(
    which: str, told: str, tmp_path: Path, make_recipe: Any
) -> None:
    one, both = _folder(tmp_path / "one", mixed=False), _folder(tmp_path / "both", mixed=True)
    data = {"validation_images": 6, "held_out_images": 6}
    with pytest.raises(ConfigError, match=f"the {told} images are all without objects"):
        FilterTrainer(make_recipe("filter", data={**data, which: one}), tmp_path / "out")
    FilterTrainer(make_recipe("filter", data={**data, which: both}), tmp_path / "out")


def test_parts_of_a_folder_are_looked_at_as_the_epochs_show_them(tmp_path: Path, make_recipe: Any) -> None:
    # Three epochs of two images come to the last one, two do not.
    data = {"train": _folder(tmp_path / "both", mixed=True), "part": 2}
    FilterTrainer(make_recipe("filter", epochs=(3,), data=data), tmp_path / "out")
    with pytest.raises(ConfigError, match="the training images are all without objects"):
        FilterTrainer(make_recipe("filter", epochs=(2,), data=data), tmp_path / "out")


def test_a_given_threshold_holds(tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe("filter", epochs=(1,), filter={"threshold": 0.1}, data={"validation_images": 8})
    assert FilterTrainer(recipe, tmp_path).run()["held_out"]["threshold"] == 0.1
    assert load_teacher(recipe.teacher).name == "tiny"
