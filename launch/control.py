"""What ranks tell each other beside the frames, while they stream: journals, and the end after an error.

After an error on any rank: that rank tells all others; every rank closes its lanes, so that what was written is valid, and
ships the rest of its journal to rank 0; rank 0 prints the first error once and leaves, upon which mpirun ends the others.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from ..pipeline.communication import Communication
from ..pipeline.errors import PeerError, StallError
from ..pipeline.halt import Halt
from ..pipeline.message import Buffer
from .endings import exit_code, one_line

_ABORT_TAG, _JOURNAL_TAG, _CLOSED_TAG = 2, 3, 4
_ABORT_BYTES = 1 << 14
_JOURNAL_BYTES = 1 << 18


class Control:
    """One per rank, made before the communication starts."""

    def __init__(
        self,
        communication: Communication,
        rank: int,
        num_ranks: int,
        host: str,
        halt: Halt,
        keep_journal: Callable[[int, bytes], None],
    ) -> None:
        self._communication = communication
        self._rank = rank
        self._num_ranks = num_ranks
        self._host = host
        self._halt = halt
        self._keep_journal = keep_journal
        self._changed = threading.Condition()
        self.first: dict[str, Any] | None = None
        """What the rank that failed first said: rank, host, text, exit_code, and whether it is a stall."""
        self._closed: dict[int, dict[str, Any]] = {}
        halt.listen(self._tell_all)
        self._listen(_ABORT_TAG, _ABORT_BYTES, self._on_abort)
        if rank == 0:
            for _ in range(num_ranks):
                self._listen(_JOURNAL_TAG, _JOURNAL_BYTES, self._on_journal)
            self._listen(_CLOSED_TAG, _ABORT_BYTES, self._on_closed)

    def ship_journal(self, data: bytes) -> None:
        """Hand journal lines to rank 0, in pieces of whole lines, compressed."""
        if self._rank == 0:
            self._keep_journal(0, data)
            return
        # Uncompressed pieces of half the limit fit whatever they are made of.
        for piece in _pieces(data, _JOURNAL_BYTES // 2):
            self._send(0, _JOURNAL_TAG, zlib.compress(piece, 1))

    def tell_closed(self, state: str, kept: str) -> None:
        """After an error: this rank's lanes are closed; `state` is what they were doing, `kept` the folder in which this
        rank leaves what it wrote, or empty."""
        closed = {"host": self._host, "state": state[: _ABORT_BYTES // 8], "kept": kept}
        if self._rank == 0:
            self._on_closed(json.dumps(closed).encode(), 0)
        else:
            self._send(0, _CLOSED_TAG, json.dumps(closed).encode())

    def wait_closed(self, timeout_s: float) -> str:
        """Rank 0 after an error: wait until all others have closed, or for `timeout_s`. Returns what is to be said besides
        the error: where a far rank's results are, and after a stall what each other rank was doing."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._closed) == self._num_ranks, timeout_s)
            closed = dict(self._closed)
        text = ""
        if self.first is not None and self.first["is_stall"]:
            for rank in range(self._num_ranks):
                if rank not in closed:
                    text += f"; rank {rank} does not answer"
                elif rank != self.first["rank"] and closed[rank]["state"]:
                    text += f"; rank {rank}: {closed[rank]['state']}"
        for rank, last in sorted(closed.items()):
            if last["kept"]:
                text += f"; what rank {rank} wrote is in {last['kept']} on {last['host']}"
        return text

    def _tell_all(self, error: BaseException) -> None:
        if isinstance(error, PeerError):
            return
        text = one_line(error)[: _ABORT_BYTES // 8]
        first = {
            "rank": self._rank,
            "host": self._host,
            "text": text,
            "exit_code": exit_code(error),
            "is_stall": isinstance(error, StallError),
        }
        if self.first is None:
            self.first = first
        for peer in range(self._num_ranks):
            if peer != self._rank:
                self._send(peer, _ABORT_TAG, json.dumps(first).encode())

    def _on_abort(self, data: bytes, sender: int) -> None:
        if self.first is None:
            self.first = json.loads(data)
        self._halt.stop(PeerError(f"rank {sender} has failed"))

    def _on_journal(self, data: bytes, sender: int) -> None:
        self._keep_journal(sender, zlib.decompress(data))

    def _on_closed(self, data: bytes, sender: int) -> None:
        with self._changed:
            self._closed[sender] = json.loads(data)
            self._changed.notify_all()

    def _send(self, peer: int, tag: int, data: bytes) -> None:
        self._communication.post_send(np.frombuffer(data, np.uint8), peer, tag, lambda _, __: None, synchronous=True)

    def _listen(self, tag: int, size: int, handle: Callable[[bytes, int], None]) -> None:
        buffer: Buffer = np.empty(size, np.uint8)

        def done(num_bytes: int, sender: int) -> None:
            handle(buffer[:num_bytes].tobytes(), sender)
            post()

        def post() -> None:
            self._communication.post_receive(buffer, MPI.ANY_SOURCE, tag, done)

        post()


def _pieces(data: bytes, size: int) -> list[bytes]:
    """Whole lines, at most `size` bytes a piece."""
    pieces = []
    while len(data) > size:
        cut = data.rfind(b"\n", 0, size) + 1 or size
        pieces.append(data[:cut])
        data = data[cut:]
    return [*pieces, data] if data else pieces
