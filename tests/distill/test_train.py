from __future__ import annotations

import errno
import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitrail.bench.bundle_accuracy import evaluate_bundle
from splitrail.bench.pictures import ScenePictures
from splitrail.distill.checkpoint import BEST, LAST, Checkpoint, CheckpointError
from splitrail.distill.evaluate import evaluate_detector
from splitrail.distill.finished import export_checkpoint, load_finished
from splitrail.distill.learner import Batch, Learner, Losses
from splitrail.distill.loader import SampleSet, collate
from splitrail.distill.loop import Progress, TrainingError
from splitrail.distill.recipe import Recipe
from splitrail.distill.train import Trainer
from splitrail.launch.train import presets, recipe_path
from splitrail.pipeline.errors import ConfigError
from splitrail.stages.bundle import PreProcess

_RECIPE: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "phases": [{"epochs": 2, "size": (64, 80), "batch_size": 4}],
    "model": {
        "depth": 18,
        "dilation": True,
        "width": 4,
        "num_queries": 9,
        "d_model": 32,
        "heads": 4,
        "ffn": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "dropout": 0.1,
    },
    "data": {"images_per_epoch": 12, "validation_images": 3, "workers": 0, "colour": 0.1},
    "assistance": {"query_groups": 2, "denoising_groups": 1, "dense": True, "anchors": True},
    "optimiser": {"lr": 1e-3, "backbone_lr": 1e-3, "warm_up_steps": 2, "ema_decay": 0.9, "decay": "cosine"},
}


def _recipe(**changes: Any) -> Recipe:
    return Recipe.check(_RECIPE | changes, "the test")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _state(trainer: Trainer) -> dict[str, torch.Tensor]:
    both = {f"learner.{name}": value for name, value in trainer.learner.state_dict().items()}
    return both | {f"detr.{name}": value.clone() for name, value in trainer.detector.state_dict().items()}


class _Stop(Exception):
    pass


def _stop_after(num_steps: int) -> Any:
    steps = iter(range(num_steps - 1))

    def watch(event: object) -> None:
        if isinstance(event, Progress) and next(steps, None) is None:
            raise _Stop

    return watch


@pytest.mark.timeout(400)
def test_the_loss_falls_and_a_record_is_written_per_epoch(tmp_path: Path) -> None:
    recipe = _recipe(phases=[{"epochs": 8, "size": (64, 80), "batch_size": 4}], evaluate_every_epochs=4)
    Trainer(recipe, tmp_path).run()
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 9))
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    assert [number for number, record in enumerate(records, 1) if "mAP@50" in record] == [4, 8]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["best.safetensors", "last.safetensors"]
    # What a finished detector does not need is only where a training goes on from.
    kinds = [{name.split(".")[0] for name in Checkpoint.load(tmp_path / name).tensors} for name in (BEST, LAST)]
    assert kinds == [{"learner", "average"}, {"learner", "average", "optimiser", "random"}]


@pytest.mark.parametrize("num_steps", [2, 4], ids=["within an epoch", "in another phase"])
def test_a_resumed_training_ends_as_an_unbroken_one(tmp_path: Path, num_steps: int) -> None:
    phases = [
        {"epochs": 1, "size": (64, 64), "batch_size": 4, "dense_only": True},
        {"epochs": 1, "size": (64, 80), "batch_size": 4},
    ]
    recipe = _recipe(phases=phases, checkpoint_every_s=0)
    unbroken = Trainer(recipe, tmp_path / "unbroken")
    unbroken.run()

    with pytest.raises(_Stop):
        Trainer(recipe, tmp_path / "broken", watch=_stop_after(num_steps)).run()
    torch.manual_seed(99)
    resumed = Trainer(recipe, tmp_path / "broken", checkpoint=Checkpoint.load(tmp_path / "broken"))
    assert 0 < resumed.position.step < 6
    resumed.run()

    wanted, found = _state(unbroken), _state(resumed)
    assert wanted.keys() == found.keys()
    assert [name for name, value in wanted.items() if not torch.equal(value, found[name])] == []

    def losses(trainer: Trainer) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in record.items() if key != "seconds"} for record in trainer.position.history
        ]

    assert losses(unbroken) == losses(resumed)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(checkpoint_every_s=0)
    forward, calls = Learner.forward, iter(range(100))

    def failing(self: Learner, batch: Batch, *, dense_only: bool = False) -> Losses:
        losses = forward(self, batch, dense_only=dense_only)
        return losses._replace(total=losses.total * float("nan")) if next(calls) == 3 else losses

    monkeypatch.setattr(Learner, "forward", failing)
    trainer = Trainer(recipe, tmp_path)
    with pytest.raises(TrainingError, match=r"loss became nan at step 4 \(epoch 2, batch 1\).*last\.safetensors"):
        trainer.run()
    kept = Checkpoint.load(tmp_path)
    assert kept.position.step == 3
    assert all(torch.isfinite(value).all() for value in kept.part("learner").values())
    assert all(torch.isfinite(value).all() for value in trainer.learner.state_dict().values())


def test_a_gradient_that_is_no_number_stops_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(_recipe(), tmp_path)
    weight = trainer.learner.detr.class_embed.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="gradient became"):
        trainer.run()
    assert torch.equal(weight, before)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(), tmp_path)
    trainer._save(LAST)
    old = (tmp_path / LAST).read_bytes()
    trainer.position.step = 77
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond half a checkpoint: to the writer that is a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old) // 2, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written .* the one before is kept"):
            trainer._save(LAST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / LAST).read_bytes() == old
    assert not list(tmp_path.glob("*.partial"))


def test_a_disk_that_fills_at_the_last_moment_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(_recipe(), tmp_path)
    trainer._save(LAST)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    trainer.position.step = 77
    with pytest.raises(CheckpointError, match="No space left on device"):
        trainer._save(LAST)
    assert Checkpoint.load(tmp_path).position.step == 0


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        Checkpoint.load(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00\x00")
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        Checkpoint.load(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="no training to go on from"):
        Checkpoint.load(tmp_path / "weights.safetensors")


def test_a_checkpoint_of_another_detector_is_refused(tmp_path: Path) -> None:
    Trainer(_recipe(), tmp_path)._save(LAST)
    other = _recipe(model=_RECIPE["model"] | {"decoder_layers": 3})
    with pytest.raises(ConfigError, match="does not fit the recipe"):
        Trainer(other, tmp_path, checkpoint=Checkpoint.load(tmp_path))


def test_the_averaged_detector_is_exported_and_judged_alike(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(), tmp_path / "training")
    trainer.run()
    bundle = export_checkpoint(tmp_path / "training", tmp_path / "bundle")
    assert bundle.preprocess.size == (64, 80)
    assert bundle.classes == trainer.position.classes
    assert "6 steps" in bundle.trained
    finished = load_finished(tmp_path / "training")
    assert all(
        torch.equal(value, trainer.detector.state_dict()[name]) for name, value in finished.model.state_dict().items()
    )

    pictures = ScenePictures((96, 120), 5, "test", 3)
    in_torch = evaluate_detector(finished.model, pictures, 3, finished.preprocess)
    exported = evaluate_bundle(tmp_path / "bundle", pictures, 3)
    assert in_torch.num_objects == exported.boxes.num_objects > 0
    assert exported.boxes.map == pytest.approx(in_torch.map, abs=1e-3)


def test_half_precision_gives_nearly_the_same_losses(tmp_path: Path) -> None:
    pictures = ScenePictures((64, 80), 5, "train", 4)
    batch = collate([SampleSet(pictures, PreProcess(size=(64, 80)))[0, index] for index in range(4)])
    learner = Trainer(_recipe(assistance={"dense": True}), tmp_path).learner
    full = learner(batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = learner(batch)
    half.total.backward()
    assert half.total.dtype == torch.float32
    assert float(half.total.detach()) == pytest.approx(float(full.total.detach()), rel=0.05)
    assert all(value.grad is None or value.grad.dtype == torch.float32 for value in learner.parameters())


def test_half_precision_is_refused_where_it_would_be_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags : sse avx2")
    with pytest.raises(ConfigError, match="no bf16 instructions"):
        Trainer(_recipe(optimiser={"precision": "bf16"}), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": []}, "phases"),
        ({"nonsense": 1}, "nonsense"),
        ({"optimiser": {"lr": 0}}, "optimiser.lr"),
        ({"model": {"heads": 5}}, "multiple of heads"),
        ({"assistance": {}, "phases": [{"epochs": 1, "size": (64, 64), "dense_only": True}]}, "dense_only"),
    ],
)
def test_a_recipe_that_does_not_fit_names_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _recipe(**change)


def test_recipes_are_read_from_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Recipe.load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        Recipe.load(tmp_path / "broken.toml")
    for name in presets():
        assert Recipe.load(recipe_path(name)).name


def test_another_number_of_epochs_changes_the_last_phase() -> None:
    recipe = _recipe(phases=[{"epochs": 2, "size": (64, 64)}, {"epochs": 3, "size": (64, 80)}])
    assert [phase.epochs for phase in recipe.with_epochs(9).phases] == [2, 7]
    with pytest.raises(ConfigError, match="at least 3"):
        recipe.with_epochs(2)


def test_validation_data_of_other_classes_is_refused(tmp_path: Path) -> None:
    from splitrail.stages.scene_folder import write_coco_folder

    write_coco_folder(tmp_path / "data", 2, (64, 80))
    content = json.loads((tmp_path / "data" / "annotations.json").read_text())
    content["categories"][0]["name"] = "goblet"
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(content))
    data = _RECIPE["data"] | {"train": str(tmp_path / "data")}
    with pytest.raises(ConfigError, match="other classes"):
        Trainer(_recipe(data=data), tmp_path / "out")


def test_averages_follow_the_weights(tmp_path: Path) -> None:
    trainer = Trainer(_recipe(), tmp_path)
    trainer.run()
    ours = trainer.detector.state_dict()
    trained = trainer.learner.detr.state_dict()
    assert not torch.equal(ours["class_embed.weight"], trained["class_embed.weight"])
    assert np.allclose(ours["class_embed.weight"], trained["class_embed.weight"], atol=0.02)
