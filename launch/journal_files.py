"""The journals of all ranks as files in the run's folder on rank 0's host."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from mpi4py import MPI

from ..bench.journal import journal_path
from ..pipeline.errors import SinkError
from .exchange import broadcast_bytes


class JournalFiles:
    """On rank 0 a thread that appends lines to files; on other ranks what is held back until `gather`.

    Writing has a thread of its own because lines of other ranks come in the communication thread, which a slow disk must not
    hold up. `on_error` hears of a file that cannot be written.
    """

    def __init__(self, out: Path | None, on_error: Callable[[BaseException], None]) -> None:
        """`out` is the run's folder on rank 0, None on the others."""
        self._out = out
        self._on_error = on_error
        self._held: list[bytes] = []
        self._lines: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="journal files", daemon=True)
        if out is not None:
            self._thread.start()

    def append(self, rank: int, data: bytes) -> None:
        """Rank 0: add lines to a rank's journal."""
        self._lines.put((rank, data))

    def hold(self, data: bytes) -> None:
        """This rank's own lines, when the communication does not carry them."""
        if self._out is not None:
            self.append(0, data)
        else:
            self._held.append(data)

    def gather(self, comm: MPI.Comm) -> None:
        """Bring what was held back to rank 0. All ranks call it together."""
        for rank in range(1, comm.size):
            data = broadcast_bytes(comm, b"".join(self._held) if comm.rank == rank else None, rank)
            if comm.rank == 0 and data:
                self.append(rank, data)

    def close(self) -> None:
        """Write what is left."""
        self._lines.put(None)
        if self._out is not None:
            self._thread.join()

    def _write_all(self) -> None:
        assert self._out is not None
        while (item := self._lines.get()) is not None:
            path = journal_path(self._out, item[0])
            try:
                with path.open("ab") as file:
                    file.write(item[1])
            except OSError as error:
                self._on_error(
                    SinkError(f"{path} cannot be written ({error.strerror}); free space or give another --out")
                )
