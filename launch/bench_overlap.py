"""`splitrail bench overlap`: the channel and what one writes without it, on the same link, engines and machine, in one run."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bench.overlap_config import BUNDLE, ENGINES, OVERLAPS, WITH_CHANNEL, OverlapConfig
from ..pipeline.errors import ConfigError, SplitrailError, UsageError
from .bench_presets import Preset
from .link import parse_delay_ms
from .mpirun import RankSpec, build_command, detect_mpi
from .mpirun_process import MpirunProcess
from .netns import TwoHosts
from .shaping import parse_rate

EAGER_LIMIT_BYTES = 1 << 20
"""Messages up to this are sent without asking the receiver, which saves a round trip; credits keep it from being flooded."""
SMALL_EAGER_LIMIT_BYTES = 65_536
"""Open MPI's own. The baselines keep it: they have no credits, so with a larger one a slow receiver would be flooded."""
_TCP_SHARE = 0.955
"""Share of a link's rate that a TCP connection carries as payload."""
_UNLINKED_STAGE_MS = 20.0
"""Work of a stage where there is no link to be as long as."""
_RUN_TIMEOUT_S = 600.0


def eager_limit_for(max_message_bytes: int) -> int:
    """The eager limit to give MPI for messages of up to this size, bytes."""
    return EAGER_LIMIT_BYTES if max_message_bytes <= EAGER_LIMIT_BYTES - 4096 else SMALL_EAGER_LIMIT_BYTES


@dataclass(frozen=True)
class OverlapBench:
    """What to measure; `run` does it. Raises ConfigError for what cannot be measured."""

    preset: Preset
    repeats: int
    bundle: Mapping[str, Any] = field(default_factory=dict)
    """For the engine `bundle`: the fields of OverlapConfig that say which graphs run how."""
    max_wire_bytes: int = 0
    """Of that bundle's cut."""

    def __post_init__(self) -> None:
        preset = self.preset
        engines = (BUNDLE,) if self.bundle else ENGINES
        for name, given, known in (("engines", preset.engines, engines), ("overlaps", preset.overlaps, OVERLAPS)):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ConfigError(f"--{name} {unknown[0]!r} is unknown; choose among {', '.join(known)}")
        smallest = min(preset.num_frames, self.repeats, 1 if self.bundle else preset.frame_bytes)
        if smallest < 1 or preset.stage_ms < 0:
            raise ConfigError("--frame-bytes, --num-frames and --repeats must be at least 1, --stage-ms at least 0")
        if preset.num_frames < 5:
            raise ConfigError(f"--num-frames {preset.num_frames} is too few to tell anything; give 5 or more")

    def run(self, on_step: Callable[[str], None] = lambda _: None) -> list[dict[str, Any]]:
        """One row per engine and overlap: the median run by efficiency, the spread, and ratios to other rows.

        `on_step` hears what is measured next."""
        rows: list[dict[str, Any]] = []
        with self._hosts() as two:
            for engine in self.preset.engines:
                runs: dict[str, list[dict[str, Any]]] = {overlap: [] for overlap in self.preset.overlaps}
                # Repeats go round the channels, so that a slow minute of the machine meets them all.
                for repeat in range(self.repeats):
                    for overlap in self.preset.overlaps:
                        on_step(f"{self.preset.name}: {engine}, {overlap}, {repeat + 1} of {self.repeats}")
                        runs[overlap].append(self._measure(engine, overlap, two))
                rows += [self._row(runs[overlap], runs) for overlap in self.preset.overlaps]
        return rows

    @contextlib.contextmanager
    def _hosts(self) -> Iterator[TwoHosts | None]:
        if self.preset.link_rate is None and self.preset.link_delay is None:
            yield None
            return
        keep = [self.bundle["bundle"]] if self.bundle else []
        with TwoHosts(self.preset.link_rate, parse_delay_ms(self.preset.link_delay), keep=keep) as two:
            yield two

    def _measure(self, engine: str, overlap: str, two: TwoHosts | None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="splitrail-bench-") as scratch:
            return self._measure_once(engine, overlap, two, scratch)

    def _measure_once(self, engine: str, overlap: str, two: TwoHosts | None, scratch: str) -> dict[str, Any]:
        preset = self.preset
        largest = self.max_wire_bytes or preset.frame_bytes
        eager_limit = eager_limit_for(largest) if overlap in WITH_CHANNEL else SMALL_EAGER_LIMIT_BYTES
        config = {
            **vars(OverlapConfig()),
            "overlap": overlap,
            "engine": engine,
            "stage_ms": preset.stage_ms or self._wire_ms(),
            "frame_bytes": preset.frame_bytes,
            "num_frames": preset.num_frames,
            "eager_limit_bytes": eager_limit,
            "address": "127.0.0.1" if two is None else "workstation",
            "scratch": scratch,
            **self.bundle,
        }
        program = (sys.executable, "-m", "splitrail.launch.bench_rank", json.dumps(config))
        hosts = ("edge", "workstation") if two is not None else (None, None)
        command = build_command(
            detect_mpi(),
            [RankSpec(host, program) for host in hosts],
            network=two.network if two is not None else None,
            agent=two.agent if two is not None else None,
            eager_limit_bytes=eager_limit,
        )
        before = sum(two.tx_bytes().values()) if two is not None else 0
        row = _run(two.near(command) if two is not None else command, f"the {overlap} run with {engine} engines")
        if two is not None:
            # Wire proof: a figure whose bytes did not cross the interface is not of this link.
            row["interface_bytes"] = sum(two.tx_bytes().values()) - before
            if overlap != "single" and row["interface_bytes"] < row["frame_bytes"] * preset.num_frames:
                raise SplitrailError("the frames did not cross the link; the figure would not be of a network")
        return row

    def _wire_ms(self) -> float:
        if self.preset.link_rate is None:
            return _UNLINKED_STAGE_MS
        return self.preset.frame_bytes * 8e3 / (_TCP_SHARE * parse_rate(self.preset.link_rate))

    def _row(self, runs: list[dict[str, Any]], others: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        by_efficiency = sorted(runs, key=lambda row: row["efficiency"])
        row = {"preset": self.preset.name, **by_efficiency[(len(runs) - 1) // 2]}
        row["efficiency"] = statistics.median(run["efficiency"] for run in runs)
        row["efficiency_spread"] = [by_efficiency[0]["efficiency"], by_efficiency[-1]["efficiency"]]
        row["num_runs"] = len(runs)
        for percentile in ("p50_ms", "p99_ms"):
            worst = sorted(max(part[percentile] for part in run["own"]) for run in runs)
            row[f"own_{percentile}"] = statistics.median(worst)
            row[f"own_{percentile}_spread"] = [worst[0], worst[-1]]
        row["growth_mb"] = max(max(run["growth_bytes"]) for run in runs) / 1e6
        row["same_results"] = {run["digest"] for run in runs} == {run["digest"] for run in next(iter(others.values()))}
        # Run by run, so that both sides of a ratio saw the same minute.
        if "naive" in others:
            ratios = [
                other["measured_ms"] / own["measured_ms"] for own, other in zip(runs, others["naive"], strict=True)
            ]
            row["times_naive"] = round(statistics.median(ratios), 3)
        if "full" in others:
            costs = sorted(
                own["measured_ms"] / other["measured_ms"] - 1 for own, other in zip(runs, others["full"], strict=True)
            )
            row["cost"], row["cost_spread"] = (
                round(statistics.median(costs), 5),
                [round(c, 5) for c in (costs[0], costs[-1])],
            )
        if self.preset.bar is not None and (reached := self.preset.bar.judge(row)) is not None:
            row["bar"], row["bar_reached"] = str(self.preset.bar), reached
        return row


def _run(command: list[str], what: str) -> dict[str, Any]:
    """Run one measurement; the row that rank 0 printed."""
    rows: list[str] = []
    errors: list[str] = []
    with MpirunProcess(command, lambda line, is_error: (errors if is_error else rows).append(line)) as process:
        code = process.wait(_RUN_TIMEOUT_S)
    if code == 0 and rows:
        row: dict[str, Any] = json.loads(rows[-1])
        return row
    own = [line.removeprefix("splitrail bench: ") for line in errors if line.startswith("splitrail bench: ")]
    late = f"it took longer than {_RUN_TIMEOUT_S:.0f} s" if code is None else None
    why = late or (own or [process.failure() or "no output"])[0]
    if code == UsageError.exit_code:
        raise UsageError(why)
    raise SplitrailError(f"{what} failed: {why}")


def bundle_facts(
    bundle: str, source: str, engine: str, wire: str, threads: int, device: str
) -> tuple[dict[str, Any], int]:
    """The fields of OverlapConfig for a bundle, and the largest frame on its wire, bytes. Chooses the engine as a run does.

    Raises UsageErrors: no such bundle, one without a cut, no such engine."""
    from ..stages.bundle import WIRE_SUFFIXES, Bundle
    from ..stages.cache import cache_folder
    from ..stages.engine_choice import check_engine, choose_engine
    from . import workshop  # noqa: F401  registers the engines that a run knows
    from .config import bundle_folder

    folder = bundle_folder(bundle).absolute()
    loaded = Bundle.load(folder)
    if len(loaded.stages) < 2:
        raise ConfigError(f"{folder} has one graph and nothing to cut; export the detector with --cut")
    if wire not in WIRE_SUFFIXES:
        raise ConfigError(f"--wire {wire!r} is unknown; choose among {', '.join(WIRE_SUFFIXES)}")
    if not source:
        raise ConfigError("--source is missing: the pictures the detector gets, as for 'splitrail run'")
    name, _, precision = engine.partition(":")
    cores = os.cpu_count() or 1
    choice = (
        choose_engine(folder, loaded, threads=cores, cache=cache_folder())
        if name == "auto"
        else check_engine(folder, loaded, name, precision or "fp32", threads=cores, cache=cache_folder())
    )
    facts = {
        "bundle": str(folder),
        "source": str(Path(source).absolute()) if Path(source).exists() else source,
        "graph_engine": choice.engine,
        "precision": choice.precision,
        "wire": wire,
        "threads": threads or max(1, cores // 2),
        "device": device,
    }
    return facts, loaded.stages[loaded.num_head_stages - 1].max_wire_bytes
