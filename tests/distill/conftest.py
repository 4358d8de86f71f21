from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from splitrail.bench.pictures import Picture, ScenePictures
from splitrail.distill.checkpoint import LAST
from splitrail.distill.recipe import Recipe
from splitrail.distill.student_recipe import StudentRecipe
from splitrail.distill.train import Trainer

TEACHER: dict[str, Any] = {
    "name": "tiny",
    "phases": [{"epochs": 1, "size": (64, 80), "batch_size": 4}],
    "model": {
        "depth": 18,
        "dilation": True,
        "width": 8,
        "num_queries": 6,
        "d_model": 16,
        "heads": 4,
        "ffn": 16,
        "encoder_layers": 3,
        "decoder_layers": 1,
        "dropout": 0.1,
    },
    "data": {"images_per_epoch": 4, "validation_images": 2, "workers": 0},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _scenes_made_once() -> Iterator[None]:
    """A picture takes longer to make than a tiny network to look at it, and most tests look at the same ones."""
    make, made = ScenePictures.picture, {}

    def picture(self: ScenePictures, index: int, epoch: int) -> Picture:
        number = epoch * self.num_images + index
        key = (self.size, self.seed, self.split, self.max_objects, self.empty_fraction, self.with_shapes, number)
        if key not in made:
            made[key] = make(self, index, epoch)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScenePictures, "picture", picture)
        yield


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a training that is as good as random, with normalisations whose statistics are not the initial ones."""
    out = tmp_path_factory.mktemp("teacher")
    trainer = Trainer(Recipe.check(TEACHER, "the test"), out)
    trainer.run()
    assert (out / LAST).is_file()
    return out


@pytest.fixture
def make_recipe(teacher_folder: Path) -> Any:
    """A small recipe for a task, learning from that teacher; keyword arguments are tables and values that hold instead."""

    def make(task: str, **changes: Any) -> StudentRecipe:
        values: dict[str, Any] = {
            "task": task,
            "teacher": str(teacher_folder),
            "seed": 3,
            "epochs": (1, 1, 1, 1) if task == "sskd" else (2,),
            "batch_size": 2,
            "student": {"depth": 18, "width": 4, "encoder_layers": 1},
            "data": {
                "images_per_epoch": 4,
                "validation_images": 4,
                "held_out_images": 3,
                "empty": 0.46,
                "workers": 0,
                "colour": 0.1,
            },
        }
        for name, value in changes.items():
            values[name] = {**values[name], **value} if isinstance(values.get(name), dict) else value
        return StudentRecipe.check(values, "the test")

    return make
