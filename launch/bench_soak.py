"""`splitrail bench soak`: a long run, and a camera that is twice too fast. Both are real runs of `splitrail run` on two ranks.

lossless    so many frames with payload checksums: every number once and in order, and the ranks' memory after a fifth of
            them against that near the end
camera      the same source at twice the rate the first run reached, policy drop-oldest: the counts add up, and the age of
            the results (capture to output) in the last third against that in the first
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from ..bench.summary import DETECTIONS, FATES, SUMMARY, load_journals
from ..pipeline.errors import ConfigError, SplitrailError, UsageError

MIN_FRAMES = 50
MAX_GROWTH_BYTES = 4_000_000
"""More than an allocator's whims: over 8,000 frames less than one small object kept per frame."""
MAX_AGE_RATIO = 2.0
"""Last third against first: in a queue that fills at twice the capacity the age grows with the time, which makes this 5."""
_SAMPLE_S = 0.1
_TOO_FAST = 2.0
_END_TIMEOUT_S = 30.0
"""For a run that was asked to end."""


@dataclass(frozen=True)
class Soak:
    """What to run. Raises ConfigError for too few frames."""

    source: str
    num_frames: int
    options: tuple[str, ...]
    """More options of `splitrail run`: the bundle, the engine, the link."""

    def __post_init__(self) -> None:
        if self.num_frames < MIN_FRAMES:
            raise ConfigError(f"--num-frames {self.num_frames} is too few; give at least {MIN_FRAMES}")

    def run(self) -> dict[str, Any]:
        """Both runs; what they showed as JSON values. Raises SplitrailError where a run fails."""
        with tempfile.TemporaryDirectory(prefix="splitrail-soak-") as folder:
            lossless = self._lossless(Path(folder, "lossless"))
            camera = self._camera(Path(folder, "camera"), _TOO_FAST * lossless["fps"])
        return {"lossless": lossless, "camera": camera}

    def _lossless(self, out: Path) -> dict[str, Any]:
        samples = self._stream(out, "--payload-crc", "--policy", "wait")
        frames = [json.loads(line) for line in (out / DETECTIONS).read_text().splitlines()]
        numbers = [frame["frame"] for frame in frames]
        summary = json.loads((out / SUMMARY).read_text())
        resident = _growth(samples, self.num_frames)
        counts = summary["counts"]
        return {
            "num_frames": self.num_frames,
            "counts": counts,
            "fps": summary["fps"],
            "in_order_once_each": numbers == list(range(self.num_frames)) and counts["done"] == self.num_frames,
            "resident": resident,
            "no_growth": all(rank["growth_bytes"] <= MAX_GROWTH_BYTES for rank in resident.values()),
        }

    def _camera(self, out: Path, rate_fps: float) -> dict[str, Any]:
        self._stream(out, "--rate", f"{rate_fps:.3f}", "--policy", "drop-oldest")
        counts = json.loads((out / SUMMARY).read_text())["counts"]
        results = [line for line in load_journals(out)[0] if line["e"] == "fate" and line["x"] == "done"]
        ages_ms = [(line["t"] - line["c"]) / 1e6 for line in sorted(results, key=lambda line: line["t"])]
        third = len(ages_ms) // 3
        if not third:
            raise SplitrailError(f"only {len(ages_ms)} frames were done; give more with --num-frames")
        first, last = statistics.median(ages_ms[:third]), statistics.median(ages_ms[-third:])
        return {
            "rate_fps": round(rate_fps, 3),
            "counts": counts,
            "overload": round(counts["captured"] / max(counts["done"], 1), 3),
            "counts_add_up": counts["captured"] == self.num_frames == sum(counts[fate] for fate in FATES),
            "age_ms": {
                "first_third": round(first, 3),
                "last_third": round(last, 3),
                "largest": round(max(ages_ms), 3),
            },
            "age_is_flat": last <= MAX_AGE_RATIO * first,
        }

    def _stream(self, out: Path, *options: str) -> list[tuple[int, dict[int, int]]]:
        """One run; samples of (results so far, resident bytes by rank)."""
        command = [sys.executable, "-m", "splitrail", "run", "--source", self.source, "--out", str(out)]
        command += ["--placement", "backbone", "--no-video", "--loop", "--max-frames", str(self.num_frames), "--json"]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                [*command, *self.options, *options], stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
            try:
                samples = _watch(process, out / DETECTIONS)
            finally:
                process.terminate()
                try:
                    process.wait(_END_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            said.seek(0)
            lines = [
                line for line in said.read().decode(errors="replace").splitlines() if line.startswith("splitrail: ")
            ]
        if process.returncode != 0:
            why = lines[0].removeprefix("splitrail: ") if lines else f"exit code {process.returncode}"
            raise (UsageError if process.returncode == UsageError.exit_code else SplitrailError)(why)
        return samples


def print_soak(result: dict[str, Any], console: Console) -> None:
    """As sentences."""
    lossless, camera = result["lossless"], result["camera"]
    verdict = "none lost, none doubled, none out of order" if lossless["in_order_once_each"] else "FRAMES ARE MISSING"
    console.print(
        f"{lossless['num_frames']} frames at {lossless['fps']:.1f} FPS, payloads checked: {verdict}", soft_wrap=True
    )
    for rank, memory in lossless["resident"].items():
        console.print(
            f"rank {rank}: {memory['early_bytes'] / 1e6:.1f} MB at frame {memory['early_frame']}, "
            f"{memory['late_bytes'] / 1e6:.1f} MB at frame {memory['late_frame']} ({memory['growth_bytes'] / 1e6:+.2f} MB)",
            soft_wrap=True,
        )
    console.print("memory does not grow" if lossless["no_growth"] else "MEMORY GROWS")
    counts, age = camera["counts"], camera["age_ms"]
    told = " + ".join(f"{counts[fate]} {fate}" for fate in FATES)
    console.print(
        f"camera at {camera['rate_fps']:.1f} FPS, drop-oldest: {counts['captured']} captured = {told}: "
        f"{'exact' if camera['counts_add_up'] else 'WRONG'}, {camera['overload']:.2f} times what it could do",
        soft_wrap=True,
    )
    console.print(
        f"age of results: median {age['first_third']:.1f} ms in the first third, {age['last_third']:.1f} ms in the last, "
        f"largest {age['largest']:.1f} ms: {'flat' if camera['age_is_flat'] else 'IT GROWS'}",
        soft_wrap=True,
    )


def _watch(process: subprocess.Popen[bytes], results: Path) -> list[tuple[int, dict[int, int]]]:
    samples = []
    position = num_results = 0
    while process.poll() is None:
        if results.exists():
            with results.open("rb") as file:
                file.seek(position)
                num_results += file.read().count(b"\n")
                position = file.tell()
            samples.append((num_results, _resident_by_rank(process.pid)))
        time.sleep(_SAMPLE_S)
    return samples


def _resident_by_rank(pid: int) -> dict[int, int]:
    found = {}
    try:
        processes = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    for process in processes:
        try:
            rank = process.environ().get("OMPI_COMM_WORLD_RANK")
            if rank is not None and "rank" in process.cmdline():
                found[int(rank)] = int(process.memory_info().rss)
        except psutil.Error:
            continue
    return found


def _growth(samples: Sequence[tuple[int, dict[int, int]]], num_frames: int) -> dict[str, dict[str, int]]:
    """By rank: resident memory after a fifth of the frames and at the last sample before the end."""
    streaming = [sample for sample in samples if num_frames // 5 <= sample[0] < num_frames and len(sample[1]) == 2]
    if len(streaming) < 2:
        raise SplitrailError("the run was too short to see its memory; give more with --num-frames")
    (early_frame, early), (late_frame, late) = streaming[0], streaming[-1]
    return {
        str(rank): {
            "early_frame": early_frame,
            "early_bytes": early[rank],
            "late_frame": late_frame,
            "late_bytes": late[rank],
            "growth_bytes": late[rank] - early[rank],
        }
        for rank in sorted(early)
    }
