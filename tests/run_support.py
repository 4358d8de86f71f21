"""What the tests of whole runs share: the command line, its outcome, and the processes it starts."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from splitrail.launch.cli import main

NUM_FRAMES = 40
"""Frames of the clip that the fixtures make."""
NUM_TIMED = NUM_FRAMES - 5
"""Those of them that times are of: all but the warm-up."""


class Outcome:
    """What a command did."""

    def __init__(self, code: int, out: str, err: str, folder: Path, seconds: float) -> None:
        self.code, self.out, self.err, self.folder, self.seconds = code, out, err, folder, seconds

    @property
    def summary(self):
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def frames(self):
        return [json.loads(line) for line in (self.folder / "detections.jsonl").read_text().splitlines()]


def command(*arguments):
    return [sys.executable, "-m", "splitrail", *map(str, arguments)]


def splitrail(*arguments, folder: Path | None = None) -> Outcome:
    """The command line in this process, in `folder` where one is given; what it starts are processes as ever.

    A process of its own would spend most of its time on importing the same libraries again.
    """
    words = [str(argument) for argument in arguments]
    out, err = io.StringIO(), io.StringIO()
    begin = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["splitrail", *words])
        if folder is not None:
            patch.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words)
            except SystemExit as end:
                code = end.code
    return Outcome(code, out.getvalue(), err.getvalue(), folder, time.monotonic() - begin)


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def wait_for_results(folder: Path, num: int, timeout_s: float = 30) -> None:
    """Until so many results are written."""
    path = folder / "detections.jsonl"
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= num:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} has fewer than {num} results after {timeout_s} s")


def ranks_of(pid: int) -> dict[int, psutil.Process]:
    """Rank -> process, among what a run has started."""
    ranks = {}
    for process in descendants(pid):
        try:
            environment = process.environ()
            words = process.cmdline()
        except psutil.Error:
            continue
        if "OMPI_COMM_WORLD_RANK" in environment and "rank" in words:
            ranks[int(environment["OMPI_COMM_WORLD_RANK"])] = process
    return ranks


def all_gone(processes: list[psutil.Process], timeout_s: float = 5) -> bool:
    """Whether none of the processes is left."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
