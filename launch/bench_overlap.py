"""`splitrail bench overlap`: the channel and the naive loops on the same link, engines and machine, in one run."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from ..pipeline.errors import ConfigError, SplitrailError
from .link import parse_delay_ms
from .mpirun import RankSpec, build_command, detect_mpi
from .mpirun_process import MpirunProcess
from .netns import TwoHosts
from .shaping import parse_rate

EAGER_LIMIT_BYTES = 1 << 20
"""Messages up to this are sent without asking the receiver, which saves a round trip; credits keep it from being flooded."""
SMALL_EAGER_LIMIT_BYTES = 65_536
_TCP_SHARE = 0.955
"""Share of a link's rate that a TCP connection carries as payload."""
_ENGINES = ("sleep", "native", "mix")
_OVERLAPS = ("full", "naive", "blocking")
_RUN_TIMEOUT_S = 300.0


def eager_limit_for(max_message_bytes: int) -> int:
    """The eager limit to give MPI for messages of up to this size, bytes."""
    return EAGER_LIMIT_BYTES if max_message_bytes <= EAGER_LIMIT_BYTES - 4096 else SMALL_EAGER_LIMIT_BYTES


@dataclass(frozen=True)
class OverlapBench:
    """What to measure; `run` does it."""

    netns: bool
    link_rate: str
    link_delay: str | None
    frame_bytes: int
    stage_ms: float
    num_frames: int
    repeats: int
    engines: tuple[str, ...]
    overlaps: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, given, known in (("engines", self.engines, _ENGINES), ("overlaps", self.overlaps, _OVERLAPS)):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ConfigError(f"--{name} {unknown[0]!r} is unknown; choose among {', '.join(known)}")
        if min(self.frame_bytes, self.num_frames, self.repeats) < 1 or self.stage_ms < 0:
            raise ConfigError("--frame-bytes, --num-frames and --repeats must be at least 1, --stage-ms at least 0")

    def run(self) -> list[dict[str, Any]]:
        """One row per engine and overlap: the median run by efficiency, with the spread, and the ratio to naive."""
        rows = []
        with self._hosts() as two:
            for engine in self.engines:
                runs: dict[str, list[dict[str, Any]]] = {overlap: [] for overlap in self.overlaps}
                # Repeats go round the channels, so that a slow minute of the machine meets them all.
                for _ in range(self.repeats):
                    for overlap in self.overlaps:
                        runs[overlap].append(self._measure(engine, overlap, two))
                for overlap in self.overlaps:
                    rows.append(_row(runs[overlap], runs.get("naive")))
        return rows

    def print(self, rows: list[dict[str, Any]], console: Console) -> None:
        """As a table."""
        first = rows[0]
        table = Table(
            title=f"overlap, {self.frame_bytes} bytes a frame, {self.num_frames} frames, {self.repeats} run(s)"
        )
        for name in ("engine", "overlap"):
            table.add_column(name)
        for name in ("edge", "wire", "tail", "ideal", "measured", "efficiency", "spread", "of solo", "x naive"):
            table.add_column(name, justify="right")
        for row in rows:
            times = (row["edge_ms"], row["wire_ms"], row["tail_ms"], row["ideal_ms"], row["measured_ms"])
            low, high = row["efficiency_spread"]
            ratio = row.get("times_naive")
            table.add_row(
                row["engine"],
                row["overlap"],
                *(f"{time:.1f}" for time in times),
                f"{row['efficiency']:.3f}",
                f"{low:.3f}-{high:.3f}",
                f"{row['solo_efficiency']:.3f}",
                "-" if ratio is None else f"{ratio:.2f}",
            )
        console.print(table)
        console.print(f"raw TCP {first['raw_tcp_mbit_s']:.0f} Mbit/s, round trip {first['round_trip_ms']:.2f} ms")

    @contextlib.contextmanager
    def _hosts(self) -> Iterator[TwoHosts | None]:
        if not self.netns:
            yield None
            return
        with TwoHosts(self.link_rate, parse_delay_ms(self.link_delay)) as two:
            yield two

    def _measure(self, engine: str, overlap: str, two: TwoHosts | None) -> dict[str, Any]:
        eager_limit = eager_limit_for(self.frame_bytes)
        config = {
            "overlap": overlap,
            "engine": engine,
            "stage_ms": self.stage_ms or self._wire_ms(),
            "frame_bytes": self.frame_bytes,
            "num_frames": self.num_frames,
            "eager_limit_bytes": eager_limit,
            "address": "127.0.0.1" if two is None else "workstation",
        }
        program = (sys.executable, "-m", "splitrail.bench.overlap_rank", json.dumps(config))
        hosts = ("edge", "workstation") if two is not None else (None, None)
        command = build_command(
            detect_mpi(),
            [RankSpec(host, program) for host in hosts],
            network=two.network if two is not None else None,
            agent=two.agent if two is not None else None,
            eager_limit_bytes=eager_limit,
        )
        before = sum(two.tx_bytes().values()) if two is not None else 0
        rows: list[str] = []
        errors: list[str] = []
        with MpirunProcess(
            two.near(command) if two is not None else command,
            lambda line, is_error: (errors if is_error else rows).append(line),
        ) as process:
            code = process.wait(_RUN_TIMEOUT_S)
        if code != 0 or not rows:
            own = [line for line in errors if line.startswith("splitrail")]
            late = f"it took longer than {_RUN_TIMEOUT_S:.0f} s" if code is None else None
            why = late or (own or [process.failure() or "no output"])[-1]
            raise SplitrailError(f"the {overlap} run with {engine} engines failed: {why}")
        row: dict[str, Any] = json.loads(rows[-1])
        if two is not None:
            # Wire proof: a figure whose bytes did not cross the interface is not of this link.
            row["interface_bytes"] = sum(two.tx_bytes().values()) - before
            if row["interface_bytes"] < self.frame_bytes * self.num_frames:
                raise SplitrailError("the frames did not cross the link; the figure would not be of a network")
        return row

    def _wire_ms(self) -> float:
        return self.frame_bytes * 8e3 / (_TCP_SHARE * parse_rate(self.link_rate))


def _row(runs: list[dict[str, Any]], naive: list[dict[str, Any]] | None) -> dict[str, Any]:
    by_efficiency = sorted(runs, key=lambda row: row["efficiency"])
    row = dict(by_efficiency[len(runs) // 2])
    row["efficiency_spread"] = [by_efficiency[0]["efficiency"], by_efficiency[-1]["efficiency"]]
    row["num_runs"] = len(runs)
    if naive:
        # Run by run, so that both sides of a ratio saw the same minute.
        ratios = [other["measured_ms"] / own["measured_ms"] for own, other in zip(runs, naive, strict=True)]
        row["times_naive"] = round(statistics.median(ratios), 3)
    return row
