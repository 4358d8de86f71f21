"""The detectors that a clone has to learn from: small, finished, and as good as they are said to be."""

from pathlib import Path

import pytest

from splitrail.bench.pictures import ScenePictures
from splitrail.distill.background import labelled_for
from splitrail.distill.checkpoint import Checkpoint
from splitrail.distill.evaluate import evaluate_detector
from splitrail.distill.teacher import load_teacher

FOLDER = Path(__file__).parents[2] / "models" / "teachers"


def test_there_is_one_of_each_family():
    assert sorted(path.stem for path in FOLDER.glob("*.safetensors")) == ["detr", "rcnn"]


@pytest.mark.parametrize("name", ["detr", "rcnn"])
def test_it_is_small_and_finds_what_it_learned(name):
    path = FOLDER / f"{name}.safetensors"
    assert path.stat().st_size < 8_000_000
    assert {tensor.split(".")[0] for tensor in Checkpoint.load(path).tensors} == {"average"}
    teacher = load_teacher(str(path))
    pictures = labelled_for(teacher.classes, ScenePictures((192, 256), 1000, "test", 24))
    assert evaluate_detector(teacher.model, pictures, 24, teacher.preprocess).map_50 > 0.5
