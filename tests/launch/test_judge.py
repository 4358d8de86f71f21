"""The accuracy of a run on generated scenes, by the world it was filmed in."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from splitrail.launch import judge as judging
from splitrail.launch.config import RunConfig
from splitrail.stages.bundle import PostProcess
from splitrail.stages.scene_source import open_scenes
from splitrail.stages.scenery.classes import CLASSES
from splitrail.stages.source import SourceOptions

ARGUMENTS = "size=64x80,frames=8"


def test_the_run_s_own_world_judges_as_one_made_again(tmp_path, monkeypatch):
    filmed = open_scenes(ARGUMENTS, SourceOptions())
    with (tmp_path / "detections.jsonl").open("w") as file:
        for frame in range(8):
            truth = filmed.truth(frame)
            found = [
                {"box": box, "score": 0.9, "label": CLASSES[label]}
                for box, label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True)
            ]
            line = {"frame": frame, "fate": "done", "detections": found[: 1 if frame == 2 else None]}
            file.write(json.dumps(line) + "\n")
    config = RunConfig.check({"source": {"uri": f"scenes:{ARGUMENTS}"}, "out": str(tmp_path)}, "the test")
    bundle = SimpleNamespace(classes=CLASSES, postprocess=PostProcess())
    again = judging.judge(tmp_path, config, bundle)
    assert again["num_images"] == 8
    assert 0 < again["mAP"] <= 1
    monkeypatch.setattr(judging, "open_scenes", lambda *arguments: pytest.fail("the world was made again"))
    assert judging.judge(tmp_path, config, bundle, filmed) == again
