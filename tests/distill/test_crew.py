from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from splitrail.distill.checkpoint import LAST, Checkpoint
from splitrail.distill.crew import Crew, crew_of
from splitrail.distill.loader import _Order
from splitrail.pipeline.errors import ConfigError

# A spawned process imports the file that was started, so the members live in a file of their own.
_SCRIPT = """
import os, signal, sys
from functools import partial
from pathlib import Path

import psutil
import torch

from splitrail.distill.checkpoint import LAST, Checkpoint
from splitrail.distill.crew import CrewError, crew_of
from splitrail.distill.recipe import Recipe
from splitrail.distill.train import Trainer

RECIPE = {
    "name": "tiny",
    "phases": [{"epochs": 2, "size": (64, 80), "batch_size": 4}],
    "model": {"depth": 18, "width": 4, "num_queries": 9, "d_model": 32, "heads": 4, "ffn": 32,
              "encoder_layers": 1, "decoder_layers": 1},
    "data": {"images_per_epoch": 8, "validation_images": 2, "workers": 0},
    "assistance": {"denoising_groups": 1, "dense": True},
}

def gradients(crew):
    first, unused, last = (torch.nn.Parameter(torch.zeros(*shape)) for shape in ((2, 3), (1,), (5,)))
    first.grad = torch.arange(6.0).reshape(2, 3) * (1 + crew.rank)
    last.grad = torch.full((5,), float(crew.rank))
    crew.average_gradients((first, unused, last))
    assert unused.grad is None
    return first.grad, last.grad

def average(crew):
    gradients(crew)

def leave(crew):
    os.kill(os.getpid(), signal.SIGKILL)

def train(out, last_epoch, crew):
    torch.set_num_threads(1)
    checkpoint = Checkpoint.load(out / LAST) if (out / LAST).exists() else None

    def stop(event):
        if isinstance(event, dict) and event["epoch"] == last_epoch:
            raise KeyboardInterrupt

    trainer = Trainer(Recipe.check(RECIPE, "the test"), out, checkpoint=checkpoint, crew=crew, watch=stop)
    trainer.run()
    if not crew.leads:
        torch.save(dict(trainer.learner.named_parameters()), out / "other.pt")

if __name__ == "__main__":
    what, size = sys.argv[1], int(sys.argv[2])
    if what == "average":
        with crew_of(size, average) as crew:
            first, last = gradients(crew)
        assert torch.allclose(first, torch.arange(6.0).reshape(2, 3) * sum(range(1, size + 1)) / size), first
        assert torch.allclose(last, torch.full((5,), sum(range(size)) / size)), last
    elif what == "leave":
        try:
            with crew_of(size, leave) as crew:
                gradients(crew)
        except CrewError as error:
            print(error)
    else:
        out, last_epoch = Path(sys.argv[3]), int(sys.argv[4])
        # The others of an interrupted training have not done the step that the first has not done.
        try:
            with crew_of(size, partial(train, out, 0)) as crew:
                train(out, last_epoch, crew)
        except KeyboardInterrupt:
            pass
    assert not [child for child in psutil.Process().children() if "resource_tracker" not in " ".join(child.cmdline())]
"""


@pytest.fixture
def script(tmp_path: Path) -> Any:
    path = tmp_path / "members.py"
    path.write_text(_SCRIPT)

    def run(*arguments: object) -> str:
        command = [sys.executable, str(path), *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.timeout(400)
@pytest.mark.parametrize("size", [1, 3])
def test_gradients_become_the_mean_of_all_processes(script: Any, size: int) -> None:
    script("average", size)


@pytest.mark.timeout(400)
def test_a_process_that_ends_is_told_and_leaves_nothing(script: Any) -> None:
    assert "another process of the training ended; resume from the last checkpoint" in script("leave", 2)


@pytest.mark.timeout(400)
def test_processes_hold_the_same_weights_and_resume_to_the_same(script: Any, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    script("train", 2, whole, 0)
    led = Checkpoint.load(whole / LAST).tensors
    followed = torch.load(whole / "other.pt", weights_only=True)
    assert followed
    assert all(torch.equal(led[f"learner.{name}"], value) for name, value in followed.items())

    script("train", 2, broken, 1)
    lines = (broken / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]
    script("train", 2, broken, 0)
    again = Checkpoint.load(broken / LAST).tensors
    assert all(torch.equal(again[name], value) for name, value in led.items() if name.startswith("learner."))


def test_shares_of_a_batch_are_the_batch() -> None:
    whole = list(_Order(11, 4, 5, Crew()))
    shares = [list(_Order(11, 4, 5, Crew(rank, 2))) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    assert all(len(batch) == 2 for share in shares for batch in share)


def test_no_process_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 processes"), crew_of(0, print):
        pass
