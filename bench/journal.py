"""The journal of a rank: one JSON line per thing that happened. All reports are made from journals.

    {"e": "begin", "schema": 1, "rank": 0, "host": ..., ...}     first line: who writes
    {"e": "stage", "n": name, "f": frame, "b": begin, "t": end}
    {"e": "wait", "c": cause, "n": lane or edge, "f": frame, "b": begin, "t": end}     waits of 0.1 ms and more
    {"e": "transfer", "n": edge, "f": frame, "k": kind, "s": bytes, "b": posted, "t": done}
    {"e": "fate", "f": frame, "x": fate, "r": reason, "c": capture, "p": media time, "t": output}
    {"e": "clock", "edge": index, "round_trip_ns", "offset_ns", "at_ns"}      read again after the last frame (`clock.py`)
    {"e": any other name, ...facts}                                                        with "t": when

Stages are named as in the bundle; besides these there are `capture` (from the picture's time), what a lane adds at an edge
(`decode`, `jpeg_encode`, `jpeg_decode`), and `output` (handing over to the writers). Energy has its own lines: `energy.py`.

Times are ns of the writing host's monotonic clock, except `b` of a transfer on the receiver: that is the sender's clock.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..pipeline.clock import now_ns

SCHEMA_VERSION = 1
FLUSH_S = 1.0
_SHORTEST_WAIT_NS = 100_000


class Journal:
    """An observer that hands its lines to `ship` at least each second and on `flush`. Safe to call from any thread."""

    def __init__(self, ship: Callable[[bytes], None], on_error: Callable[[BaseException], None]) -> None:
        """`on_error` hears of a `ship` that failed in the journal's own thread."""
        self._ship = ship
        self._on_error = on_error
        self._lock = threading.Lock()
        self._shipping = threading.Lock()
        self._lines: list[str] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._flush_often, name="journal", daemon=True)
        self._thread.start()

    def stage(self, name: str, frame: int, begin_ns: int, end_ns: int) -> None:
        """One stage on one frame."""
        self._add(f'{{"e":"stage","n":"{name}","f":{frame},"b":{begin_ns},"t":{end_ns}}}')

    def wait(self, cause: str, lane: str, frame: int, begin_ns: int, end_ns: int) -> None:
        """A wait; shorter ones than 0.1 ms are not written."""
        if end_ns - begin_ns >= _SHORTEST_WAIT_NS:
            self._add(f'{{"e":"wait","c":"{cause}","n":"{lane}","f":{frame},"b":{begin_ns},"t":{end_ns}}}')

    def transfer(self, edge: str, frame: int, kind: int, num_bytes: int, begin_ns: int, end_ns: int) -> None:
        """A message."""
        self._add(f'{{"e":"transfer","n":"{edge}","f":{frame},"k":{kind},"s":{num_bytes},"b":{begin_ns},"t":{end_ns}}}')

    def fate(self, frame: int, fate: str, reason: str, capture_ns: int, pts_ns: int, output_ns: int) -> None:
        """The end of a frame."""
        line = {"e": "fate", "f": frame, "x": fate, "r": reason, "c": capture_ns, "p": pts_ns, "t": output_ns}
        self._add(json.dumps(line, separators=(",", ":")))

    def event(self, name: str, **facts: object) -> None:
        """Anything else; `facts` must be JSON values."""
        self._add(json.dumps({"e": name, "t": now_ns(), **facts}, separators=(",", ":")))

    def flush(self) -> None:
        """Hand over what is buffered."""
        with self._shipping:
            with self._lock:
                lines, self._lines = self._lines, []
            if lines:
                self._ship(("\n".join(lines) + "\n").encode())

    def redirect(self, ship: Callable[[bytes], None]) -> None:
        """Flush to where lines went until now; later ones go to `ship`."""
        self.flush()
        with self._shipping:
            self._ship = ship

    def close(self) -> None:
        """Flush and stop the thread."""
        self._closed.set()
        self._thread.join()
        self.flush()

    def _add(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)

    def _flush_often(self) -> None:
        while not self._closed.wait(FLUSH_S):
            try:
                self.flush()
            except Exception as error:
                self._on_error(error)
                return


def read_journal(path: Path) -> Iterator[dict[str, object]]:
    """The lines of a journal; one that was cut off, by a crash or a full disk, is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    yield json.loads(line)


def edge_ends(edge: str) -> tuple[int, int]:
    """Sending and receiving rank from an edge's name, "0->1 features"."""
    sender, receiver = edge.split(" ")[0].split("->")
    return int(sender), int(receiver)


def journal_path(out: Path, rank: int) -> Path:
    """Where the journal of a rank lies in a run's folder."""
    return out / f"journal-rank{rank}.jsonl"
