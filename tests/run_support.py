"""What the tests of whole runs share: the command line, its outcome, and the processes it starts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil

NUM_FRAMES = 40
"""Frames of the clip that the fixtures make."""


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
