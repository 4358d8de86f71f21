"""`splitrail bench adapt`: an adaptive run and fixed ones over the same link, whose rate changes, and the same scenes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..bench.adapt_trace import delays_ms, step_results, ticks_between
from ..bench.figures.adapt import draw_adapt
from ..bench.figures.style import to_png
from ..bench.finished_run import FinishedRun
from ..bench.streaming_accuracy import streaming_accuracy, ticks_of
from ..bench.summary import FATES
from ..pipeline.errors import ConfigError, SinkError, SplitrailError
from ..stages.bundle import Bundle
from ..stages.cache import cache_folder
from ..stages.engine_choice import choose_engine
from ..stages.setting import Setting, Way, settings_of, with_accuracy
from ..stages.target import Target
from .config import RunConfig, bundle_folder
from .judge import scene_truth
from .link import Link
from .rate_trace import RateTrace
from .run import start

ADAPTIVE = "adaptive"
RESULTS = "adapt.json"
FIGURE = "adapt.png"
_LOG = "run.log"


@dataclass(frozen=True)
class AdaptBench:
    """What to run: every run sees the same worlds, from a camera at `fps`, over a link that follows `trace`."""

    bundle: str
    trace: RateTrace
    target: Target
    fps: float
    seed: int = 0
    num_worlds: int = 1
    """Of the seeds `seed`, `seed` + 1, ...: what passes the camera differs more than the runs do."""
    camera_size: tuple[int, int] = (480, 640)
    """Height and width of the camera's pictures."""
    speed: float = 1.0
    """How many times as fast as the film is made everything in it moves: a camera on something that moves sees more than 1."""
    engine: str = "auto"
    policy: str = "model"
    ways: tuple[Way, ...] = ("split",)
    jpeg_quality: int = 75
    link_delay: str | None = None
    threads: int = 0

    @property
    def duration_s(self) -> float:
        """Of a run: the last step lasts as long as the one before it."""
        seconds = [second for _, second in self.trace.steps]
        if len(seconds) < 2:
            raise ConfigError("a trace of one step does not change; give --link-rate-steps two or more")
        return 2 * seconds[-1] - seconds[-2]

    def run(self, out: Path, on_step: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
        """Run all into folders of `out`, and write `adapt.json` and `adapt.png` there. Returns what is in the file.

        Raises UsageErrors of what cannot run, and SplitrailError where a run fails.
        """
        duration_s = self.duration_s
        folder = bundle_folder(self.bundle)
        bundle = Bundle.load(folder)
        engine = self._engine(folder, bundle, on_step)
        worlds: list[dict[str, Any]] = []
        for seed in range(self.seed, self.seed + self.num_worlds):
            runs: dict[str, FinishedRun] = {}
            rows = []
            for name, config in self._plans(bundle, engine, seed).items():
                on_step(f"{name}, seed {seed}, {duration_s:.0f} s")
                place = out / f"seed{seed}" / name.replace(" ", "-")
                config = config.model_copy(update={"out": str(place)})
                self._stream(config, place)
                runs[name] = FinishedRun.load(place)
                on_step(f"judging {name}")
                rows.append(self._row(name, runs[name], config, bundle))
            worlds.append({"seed": seed, "runs": rows})
            if seed == self.seed:
                _write(out / FIGURE, to_png(draw_adapt(runs, self.target)))
        overall = _overall(worlds)
        result = {
            "bundle": self.bundle,
            "target": str(self.target),
            "camera_fps": self.fps,
            "camera_size": self.camera_size,
            "speed": self.speed,
            "policy": self.policy,
            "steps": [{"rate": rate, "second": second} for rate, second in self.trace.steps],
            "worlds": worlds,
            "overall": overall,
            "lost": sum(row["lost"] for world in worlds for row in world["runs"]),
            "kept_rate": [step["rate_kept"] for world in worlds for step in world["runs"][0]["steps"]],
            "adaptive_is_best": overall[0]["mAP@50"] > max(row["mAP@50"] for row in overall[1:]),
        }
        _write(out / RESULTS, (json.dumps(result, indent=1) + "\n").encode())
        return result

    def _engine(self, folder: Path, bundle: Bundle, on_step: Callable[[str], None]) -> str:
        """As `--engine auto` in a run; decided here, because the far host forgets its cache and would try again in every run."""
        if self.engine != "auto":
            return self.engine
        on_step("choosing the engine")
        choice = choose_engine(folder, bundle, threads=os.cpu_count() or 1, cache=cache_folder())
        return f"{choice.engine}:{choice.precision}"

    def _plans(self, bundle: Bundle, engine: str, seed: int) -> dict[str, RunConfig]:
        """Name -> configuration of each run; its folder is set later."""
        where = str(bundle_folder(self.bundle))
        by_size = sorted(with_accuracy(settings_of(bundle), where), key=_num_bytes)
        height, width = self.camera_size
        num_frames = round(self.duration_s * self.fps)
        common: dict[str, Any] = {
            "source": {
                "uri": f"scenes:seed={seed},size={height}x{width},frames=0,fps={self.fps / self.speed:g},split=test",
                "max_frames": num_frames,
                "rate_fps": self.fps,
            },
            "sink": {"video": False},
            "out": "out",
            "bundle": self.bundle,
            "placement": "split",
            "engine": engine,
            "threads": self.threads,
        }
        target = {"target_fps": self.target.fps, "target_delay_ms": self.target.delay_ms}
        plans = {ADAPTIVE: {**common, "adapt": {**target, "policy": self.policy, "ways": self.ways}}}
        for setting in (by_size[-1], by_size[0]):
            fixed = {**target, "policy": f"fixed:{setting.width:g},{setting.wire}"}
            plans[f"fixed {setting.name}"] = {**common, "adapt": fixed}
        plans[f"JPEG q{self.jpeg_quality} of the camera's picture"] = {
            **common,
            "placement": "offload",
            "jpeg_quality": self.jpeg_quality,
        }
        small = {**target, "policy": f"fixed:offload,{self.jpeg_quality}", "ways": ["split", "offload"]}
        plans[f"JPEG q{self.jpeg_quality} of the network's input"] = {**common, "adapt": small}
        return {name: RunConfig.check(plan, f"the run {name}") for name, plan in plans.items()}

    def _stream(self, config: RunConfig, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            log = (folder / _LOG).open("w", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{folder} cannot be written ({error.strerror}); give another folder with --out") from error
        # What the ranks say belongs to the run; the terminal is the bench's.
        with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = start(
                config,
                link=Link(
                    True, delay=self.link_delay, keep=(bundle_folder(config.bundle).absolute(),), steps=self.trace
                ),
                show_table=False,
            )
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            raise SplitrailError(f"the run in {folder} failed; {folder / _LOG} says why")

    def _row(self, name: str, run: FinishedRun, config: RunConfig, bundle: Bundle) -> dict[str, Any]:
        """What a run showed, over all and by step, as JSON values."""
        counts = run.summary["counts"]
        delays = delays_ms(run.outputs)
        ticks = ticks_of(run.journals)
        begin_ns, end_ns = ticks[0].time_ns, ticks[-1].time_ns
        steps = []
        with scene_truth(config, bundle) as truth_of:

            def judged(begin_ns: int, end_ns: int) -> dict[str, float | None]:
                chosen = ticks_between(ticks, begin_ns, end_ns)
                shown = streaming_accuracy(run.folder, chosen, bundle.classes, truth_of).to_json(bundle.classes)
                return {"mAP": shown["mAP"], "mAP@50": shown["mAP@50"]}

            for step in step_results(run, self.target):
                steps.append({**step.to_json(), "streaming": judged(step.begin_ns, step.end_ns)})
            overall = judged(begin_ns, end_ns + 1)
        return {
            "name": name,
            "counts": counts,
            "lost": counts["captured"] - sum(counts[fate] for fate in FATES),
            "fps": round(len(run.outputs) * 1e9 / (end_ns - begin_ns), 3),
            "delay_p95_ms": round(float(np.percentile(delays, 95)), 1) if delays else None,
            "streaming": overall,
            "steps": steps,
        }


def print_adapt(result: dict[str, Any], out: Path, console: Console) -> None:
    """A table by run and step, and what it comes to."""
    first = result["worlds"][0]
    title = (
        f"{result['target']}, camera at {result['camera_fps']:g} FPS, speed {result['speed']:g}, "
        f"policy {result['policy']}, seed {first['seed']}"
    )
    table = Table(title=title)
    table.add_column("run", min_width=8)
    table.add_column("link")
    for name in ("FPS", "p95 ms", "met s", "drain s", "drop", "mAP@50"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("used")
    for run in first["runs"]:
        for number, step in enumerate(run["steps"]):
            used = ", ".join(f"{name} {100 * share:.0f} %" for name, share in list(step["settings"].items())[:3])
            table.add_row(run["name"] if number == 0 else "", step["rate"], *_cells(step), used)
        table.add_row("", "all", *_cells({**run, "dropped": run["counts"]["dropped"]}), "", end_section=True)
    console.print(table)
    whole = Table(title=f"over the whole trace, mean of {len(result['worlds'])} worlds")
    whole.add_column("run")
    for name in ("FPS", "p95 ms", "dropped", "mAP", "mAP@50", "in each world"):
        whole.add_column(name, justify="right", no_wrap=name != "in each world")
    for row in result["overall"]:
        whole.add_row(
            row["name"],
            f"{row['fps']:.1f}",
            _number(row["delay_p95_ms"], 0),
            str(row["dropped"]),
            f"{row['mAP']:.3f}",
            f"{row['mAP@50']:.3f}",
            " ".join(f"{value:.3f}" for value in row["by_world"]),
        )
    console.print(whole)
    lost = result["lost"]
    verdict = "the adaptive run is above every fixed one"
    if not result["adaptive_is_best"]:
        verdict = "THE ADAPTIVE RUN IS NOT THE BEST"
    console.print(f"frames lost: {lost}; streaming accuracy over the whole trace: {verdict}", soft_wrap=True)
    kept = result["kept_rate"]
    if "target-fps" in result["target"]:
        console.print(
            f"the adaptive run kept the target's rate, or had it back within 2 s and the drain, in {sum(kept)} of "
            f"{len(kept)} steps",
            soft_wrap=True,
        )
    console.print(
        "p95: delay from capture to output; met: after the step, until the target was met for a second; drain: what was in "
        "flight, at the new rate; mAP@50: of what was shown at each moment",
        soft_wrap=True,
    )
    console.print(f"the figure is {out / FIGURE}, the numbers are in {out / RESULTS}", highlight=False, soft_wrap=True)


def _overall(worlds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By run: means over the worlds, frames dropped in all of them, and the accuracy in each."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    rows = []
    for runs in zip(*(world["runs"] for world in worlds), strict=True):
        by_world = [run["streaming"]["mAP@50"] or 0.0 for run in runs]
        rows.append(
            {
                "name": runs[0]["name"],
                "fps": mean([run["fps"] for run in runs]),
                "delay_p95_ms": mean([run["delay_p95_ms"] for run in runs]),
                "dropped": sum(run["counts"]["dropped"] for run in runs),
                "mAP": mean([run["streaming"]["mAP"] or 0.0 for run in runs]),
                "mAP@50": mean(by_world),
                "by_world": by_world,
            }
        )
    return rows


def _cells(row: dict[str, Any]) -> Iterator[str]:
    yield f"{row['fps']:.1f}"
    yield _number(row["delay_p95_ms"], 0)
    yield ("never" if row["recovery_s"] is None else f"{row['recovery_s']:.1f}") if "recovery_s" in row else ""
    yield _number(row.get("drain_s"), 2) if "drain_s" in row else ""
    yield str(row["dropped"])
    yield _number(row["streaming"]["mAP@50"], 3)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _num_bytes(setting: Setting) -> float:
    return setting.bytes_per_frame or 0.0


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise SinkError(f"{path} cannot be written ({error.strerror}); give another folder with --out") from error
