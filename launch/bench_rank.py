"""What mpirun starts for `splitrail bench overlap`: `python -m splitrail.launch.bench_rank JSON`. Rank 0 prints one JSON line."""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mpi4py

mpi4py.rc.initialize = False  # before MPI is imported: this program initialises it itself
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402

from ..bench.journal import Journal  # noqa: E402
from ..bench.overlap_config import BUNDLE, OverlapConfig  # noqa: E402
from ..bench.overlap_rank import run  # noqa: E402
from ..pipeline.communication import SWITCH_INTERVAL_S, Communication  # noqa: E402
from ..pipeline.errors import ConfigError  # noqa: E402
from ..pipeline.halt import Halt  # noqa: E402
from .control import Control  # noqa: E402
from .journal_files import JournalFiles  # noqa: E402
from .power import start_meters  # noqa: E402

_LINE_S = 0.2
"""The sentence is on its way through mpirun, which drops it when the job is aborted."""


class RunWatch:
    """What `splitrail run --measure-power` measures while frames stream, with the same parts: journals, shipped to rank 0's
    files over the link, and the power meters."""

    def __init__(self, scratch: Path, comm: MPI.Comm, communication: Communication, halt: Halt) -> None:
        self._comm = comm
        self._host = socket.gethostname()
        self._files = JournalFiles(scratch if comm.rank == 0 else None, halt.stop)
        control = Control(communication, comm.rank, comm.size, self._host, halt, self._files.append)
        self._journal = Journal(control.ship_journal, halt.stop)
        self.observer = self._journal

    def begin(self) -> None:
        """Start the meters, which takes an idle baseline first."""
        self._sampler = start_meters(self._comm, self._host, self._journal.event)

    def stop(self) -> None:
        """What is written from here on, the communication no longer carries."""
        self._journal.redirect(self._files.hold)

    def end(self) -> None:
        """Gather the rest."""
        if self._sampler is not None:
            self._sampler.stop()
        self._journal.close()
        self._files.gather(self._comm)
        self._files.close()


def main() -> int:
    """Entry of each rank; the only argument is the configuration."""
    config = OverlapConfig(**json.loads(sys.argv[1]))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    comm = MPI.COMM_WORLD
    try:
        if comm.size != 2:
            raise ConfigError(f"the overlap bench runs on 2 ranks, not {comm.size}; start it with mpirun -n 2")
        if config.engine == BUNDLE:
            from . import workshop  # noqa: F401  registers the sources and engines that a run knows

        result = run(config, comm, functools.partial(RunWatch, Path(config.scratch)))
    except BaseException as error:
        print(f"splitrail bench: rank {comm.rank}: {error}", file=sys.stderr, flush=True)
        time.sleep(_LINE_S)
        comm.Abort(getattr(error, "exit_code", 1))
        raise
    if result is not None:
        print(json.dumps(result), flush=True)
    MPI.Finalize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
