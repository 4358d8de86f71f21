"""`splitrail plan --verify`: real runs beside their predictions."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..bench.finished_run import PREDICTION, FinishedRun
from ..bench.planner import Forecast
from ..bench.planner_lanes import TimeOf
from ..bench.profile import HostProfile, ProfileError, StageTime
from ..bench.profile_measure import ProfileMeasurement
from ..pipeline.errors import ConfigError, SplitrailError
from ..pipeline.placement import DECODE_JPEG, ENCODE_JPEG
from .bench_profile import prepare
from .plan import TABLE, WORKSTATION, Plan, PlannedRow, forecast_json, placement_mapping

_LOW_LOAD = 0.5
"""Rate of the camera that the delay of a lonely frame is measured with, of the predicted throughput."""
_RUN_TIMEOUT_S = 1800.0
_END_TIMEOUT_S = 15.0
_NUM_WARM_UP = 5
_DRIFT_S = 3.0
_JOURNAL_NAMES = {ENCODE_JPEG: "jpeg_encode", DECODE_JPEG: "jpeg_decode"}


@dataclass(frozen=True, slots=True)
class Verification:
    """Real runs of the planned rows; `run` does them."""

    plan: Plan
    bundle: str
    out: Path
    """Folder for the runs, one or two per row: NAME with a source that is always ready, NAME-camera below capacity."""
    num_frames: int
    link_options: tuple[str, ...] = ()
    """Of `splitrail run`: --netns and what goes with it."""
    check_drift: bool = True
    """Time the graphs again before each row, and scale its prediction by how fast the machine is then."""
    check_delay: bool = True
    """Whether to do the camera runs."""

    def __post_init__(self) -> None:
        edge, workstation = self.plan.profiles
        for profile in (edge, workstation):
            if profile.published or profile.images is None or not profile.images.source:
                raise ProfileError(
                    f"the profile of {profile.host} was not measured here, so no run can be compared with it; measure one "
                    "with 'splitrail bench profile'"
                )
        if (edge.engine, edge.device, edge.threads) != (workstation.engine, workstation.device, workstation.threads):
            raise ConfigError(
                f"{edge.host} was measured with {edge.engine} and {edge.threads} thread(s), {workstation.host} with "
                f"{workstation.engine} and {workstation.threads}, and a run takes the same on all ranks; measure both alike"
            )
        if self.num_frames <= 4 * _NUM_WARM_UP:
            raise ConfigError(f"--frames {self.num_frames} is too few to leave a warm-up out; give at least 21")

    def run(self, rows: Sequence[PlannedRow], say: Callable[[str], None]) -> list[VerifiedRow]:
        """One row after the other. Raises SplitrailError where a run fails."""
        # Choosing or building an engine takes long and gives the same each time; only the timing is per row.
        graphs = self._graphs() if self.check_drift else None
        verified = []
        for number, row in enumerate(rows):
            say(f"{row.candidate.folder}, {number + 1} of {len(rows)}")
            drift = 1.0 if graphs is None else self._drift(graphs)
            will = self.plan.predict(row.candidate, _scaled(self.plan.time_of(), self.plan.graphs, drift))
            folder = self.out / row.candidate.folder
            done = self._run(row, folder, {"fps": will.fps, "delay_ms": will.queued_delay_ms})
            camera = None
            if self.check_delay:
                rate = _LOW_LOAD * will.fps
                folder = self.out / f"{row.candidate.folder}-camera"
                camera = self._run(row, folder, {"delay_ms": will.delay_ms}, rate)
            by_own = self._by_own_times(row, done)
            verified.append(
                VerifiedRow(
                    row,
                    will,
                    drift,
                    _number(done.summary["fps"]),
                    _number(done.summary["delay"].get("p50_ms")),
                    None if camera is None else _number(camera.summary["delay"].get("p50_ms")),
                    by_own.fps,
                    None if camera is None else self._by_own_times(row, camera).delay_ms,
                )
            )
        return verified

    def _by_own_times(self, row: PlannedRow, run: FinishedRun) -> Forecast:
        return self.plan.predict(row.candidate, own_times(run, row.candidate.host_of_rank))

    def _graphs(self) -> ProfileMeasurement:
        """All graphs by the engine of the profile, ready to be timed again."""
        profile = self._profile()
        threads = profile.threads or 0
        return prepare(self.bundle, profile.engine, profile.device, threads, "scenes", 90, _DRIFT_S)

    def _drift(self, graphs: ProfileMeasurement) -> float:
        """Time of all graphs now over that in the edge's profile."""
        now = graphs.solo_chain_ms()
        stages = self._profile().detector(self.plan.detector).stages
        return sum(now.values()) / sum(stages[name].solo_ms for name in now)

    def _profile(self) -> HostProfile:
        return self.plan.profiles[0]

    def _run(self, row: PlannedRow, out: Path, prediction: dict[str, float], rate: float | None = None) -> FinishedRun:
        """One run; the prediction is in its folder before it begins. A `rate` makes the source a camera."""
        candidate, profile = row.candidate, self._profile()
        assert profile.images is not None
        source: dict[str, Any] = {"uri": profile.images.source, "loop": True, "max_frames": self.num_frames}
        if rate is not None:
            source |= {"rate_fps": rate, "max_frames": max(12, self.num_frames // 3)}
        config = {
            "source": source,
            "sink": {"video": False},
            "out": str(out),
            "bundle": self.bundle,
            "placement": placement_mapping(candidate.placement),
            "engine": profile.engine,
            "device": profile.device,
            "threads": profile.threads,
            "wire": candidate.wire or "fp32",
            "image_wire": candidate.image_wire,
            "jpeg_quality": profile.images.jpeg_quality,
            "policy": "wait",
        }
        if candidate.width != 1:
            # A run takes one width only as the policy of an adaptive one.
            config["adapt"] = {"policy": f"fixed:{candidate.width:g},{candidate.wire}", "wires": [candidate.wire]}
        if self.plan.bundle is not None and self.plan.bundle.filter is not None:
            config["filter"] = False  # what a filter saves depends on the pictures, and is not planned
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / PREDICTION).write_text(json.dumps(prediction, indent=1) + "\n", encoding="utf-8")
            (out / "planned.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{out} cannot be written ({error.strerror}); give another --out") from error
        command = [sys.executable, "-m", "splitrail", "run", "--config", str(out / "planned.json"), "--json"]
        # What needs only the workstation is started there, and here that is this machine.
        if candidate.host_of_rank != (WORKSTATION,):
            command += self.link_options
        code, errors = _call(command)
        if code is None:
            raise SplitrailError(f"the run in {out} took longer than {_RUN_TIMEOUT_S:.0f} s")
        if code != 0:
            said = [line for line in errors.splitlines() if line.startswith("splitrail: ")]
            reason = said[0].removeprefix("splitrail: ") if said else f"exit code {code}"
            raise SplitrailError(f"the run in {out} failed: {reason}")
        return FinishedRun.load(out)


@dataclass(frozen=True, slots=True)
class VerifiedRow:
    """A planned row and what its runs did."""

    row: PlannedRow
    predicted: Forecast
    """By the profiles times `drift`, made before the run."""
    drift: float
    fps: float | None
    queued_delay_ms: float | None
    """Median of the run whose source is always ready."""
    delay_ms: float | None
    """Median of the camera run; None where there was none."""
    fps_by_own_times: float
    """Predicted from the service times of the very run: a miss that this does not have is in the profile, not in the model."""
    delay_by_own_times_ms: float | None
    """The same of the camera run's delay; None where there was none."""

    @property
    def fps_ratio(self) -> float | None:
        """Measured / predicted."""
        return None if self.fps is None else self.fps / self.predicted.fps

    @property
    def delay_ratio(self) -> float | None:
        """Measured / predicted, of a frame that meets no other."""
        return None if self.delay_ms is None else self.delay_ms / self.predicted.delay_ms

    @property
    def queued_delay_ratio(self) -> float | None:
        """Measured / predicted."""
        return None if self.queued_delay_ms is None else self.queued_delay_ms / self.predicted.queued_delay_ms

    @property
    def own_ratio(self) -> float | None:
        """Measured FPS / that predicted from the run's own service times."""
        return None if self.fps is None else self.fps / self.fps_by_own_times

    @property
    def own_delay_ratio(self) -> float | None:
        """Measured delay / that predicted from the camera run's own service times, of a frame that meets no other."""
        if self.delay_ms is None or self.delay_by_own_times_ms is None:
            return None
        return self.delay_ms / self.delay_by_own_times_ms

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **self.row.to_json(),
            **forecast_json(self.predicted),
            "drift": self.drift,
            "measured_fps": self.fps,
            "measured_delay_ms": self.delay_ms,
            "measured_queued_delay_ms": self.queued_delay_ms,
            "fps_ratio": self.fps_ratio,
            "delay_ratio": self.delay_ratio,
            "queued_delay_ratio": self.queued_delay_ratio,
            "fps_by_own_times_ratio": self.own_ratio,
            "delay_by_own_times_ratio": self.own_delay_ratio,
        }


def own_times(run: FinishedRun, host_of_rank: Sequence[int]) -> TimeOf:
    """The service times of a run itself, without its warm-up, as a profile has them."""
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    for work in run.work:
        times[host_of_rank[work.rank], work.stage].append((work.end_ns - work.begin_ns) / 1e6)

    def time_of(host: int, stage: str) -> StageTime:
        # A run at a narrower width calls its graphs as ever.
        plain = stage.partition("/")[0].partition("@")[0]
        step = stage.rpartition("/")[2]
        name = step if step in ("encode", "decode") else _JOURNAL_NAMES.get(plain, plain)
        # Stages that a run does not have, such as `network`, count nothing.
        values = times.get((host, name), [0.0])
        values = values[_NUM_WARM_UP:] or values
        return StageTime(solo_ms=statistics.median(values), mean_ms=statistics.fmean(values))

    return time_of


def print_verified(rows: Sequence[VerifiedRow], console: Console) -> None:
    """As a table, with the worst of each ratio."""
    table = Table(title="measured / predicted", **TABLE)
    table.add_column("placement", no_wrap=True)
    for name in ("drift", "FPS", "was", "ratio", "own", "delay", "was", "ratio", "own", "queued"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.row.candidate.label,
            f"{row.drift:.3f}",
            f"{row.predicted.fps:.3f}",
            _text(row.fps),
            _text(row.fps_ratio),
            _text(row.own_ratio),
            f"{row.predicted.delay_ms:.1f}",
            _text(row.delay_ms, 1),
            _text(row.delay_ratio),
            _text(row.own_delay_ratio),
            _text(row.queued_delay_ratio),
        )
    console.print(table)
    console.print(
        "ratio and queued: measured / predicted; drift: the graphs now / in the profile, which scales the prediction; "
        "own: measured / what the run's own service times predict; delays in ms",
        highlight=False,
        soft_wrap=True,
    )
    for what, ratios in (
        ("FPS", [row.fps_ratio for row in rows]),
        ("FPS by the run's own service times", [row.own_ratio for row in rows]),
        ("delay", [row.delay_ratio for row in rows]),
        ("delay by the run's own service times", [row.own_delay_ratio for row in rows]),
        ("queued delay", [row.queued_delay_ratio for row in rows]),
    ):
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            worst = max(known, key=lambda ratio: abs(ratio - 1))
            within = sum(abs(ratio - 1) <= 0.03 for ratio in known)
            console.print(
                f"{what}: worst ratio {worst:.3f}, {within} of {len(known)} within 3 %", highlight=False, soft_wrap=True
            )


def _scaled(time_of: TimeOf, graphs: Sequence[str], factor: float) -> TimeOf:
    """The same with every graph's times multiplied."""

    def scaled(host: int, stage: str) -> StageTime:
        time = time_of(host, stage)
        if stage.partition("/")[0].partition("@")[0] not in graphs or stage.endswith(("/encode", "/decode")):
            return time
        return time.model_copy(
            update={
                name: value * factor
                for name in ("solo_ms", "mean_ms", "coload_ms")
                if (value := getattr(time, name)) is not None
            }
        )

    return scaled


def choose_rows(rows: Sequence[PlannedRow], only: str) -> list[PlannedRow]:
    """Those whose folder name contains one of the words in `only`, which commas join; all for none. Raises ConfigError."""
    words = [word.strip() for word in only.split(",") if word.strip()]
    chosen = [row for row in rows if not words or any(word in row.candidate.folder for word in words)]
    if not chosen:
        names = ", ".join(row.candidate.folder for row in rows)
        raise ConfigError(f"--only {only!r} leaves nothing to run; the rows are {names}")
    return chosen


def _call(command: Sequence[str]) -> tuple[int | None, str]:
    """Exit code (None: it took too long) and standard error. Interrupted, the run is asked to end and waited for."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=_RUN_TIMEOUT_S)
        return process.returncode, errors
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                process.communicate(timeout=_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _text(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
