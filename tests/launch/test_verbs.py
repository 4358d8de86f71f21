"""Verbs that need no ranks: what they make, and what they say of bad options."""

import json

import pytest
from run_support import splitrail


def test_scenes_writes_a_coco_folder(tmp_path):
    result = splitrail("scenes", "--out", tmp_path / "scenes", "--num-images", 3, "--size", "64x96", "--split", "test")
    assert result.code == 0, result.err
    annotations = json.loads((tmp_path / "scenes" / "annotations.json").read_text())
    assert len(annotations["images"]) == 3
    assert len(list((tmp_path / "scenes" / "images").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["scenes", "--out", "x", "--size", "tall"], "HxW"),
        (["scenes", "--out", "x", "--split", "both"], "neither train nor test"),
        (
            ["export", "detr-resnet-50", "--out", "x", "--cut", "sideways"],
            "cuts are l0, bottleneck, c5, projection, memory",
        ),
        (["run", "--out", "x"], "--source is missing"),
        (["run", "--source", "x"], "--out is missing"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_options_get_exit_code_2(arguments, text, tmp_path):
    result = splitrail(*arguments, folder=tmp_path)
    assert result.code == 2
    assert text in result.err.replace("\n", " ")
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "verb", ["run", "rank", "demo", "doctor", "export", "scenes", "train", "evaluate", "report", "diff", "bench"]
)
def test_every_verb_has_help(verb):
    result = splitrail(verb, "--help")
    assert result.code == 0
    assert len(result.out) > 100
    if verb != "bench":
        assert "xample" in result.out or "for instance" in result.out
