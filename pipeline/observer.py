"""Who watches a rank at work. The runtime calls these and does not know what becomes of it."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Called by lanes and channels, from several threads. Must return at once and must not raise."""

    def stage(self, name: str, frame: int, begin_ns: int, end_ns: int) -> None:
        """A stage worked on a frame from `begin_ns` to `end_ns`."""

    def wait(self, cause: str, lane: str, frame: int, begin_ns: int, end_ns: int) -> None:
        """A lane waited: cause is `input`, `credit`, `queue` or `sink`. `frame` is the one it had or got, -1 for none."""

    def transfer(self, edge: str, frame: int, kind: int, num_bytes: int, begin_ns: int, end_ns: int) -> None:
        """A message on an edge. On the sender: when it was posted and when its buffer was free again. On the receiver:
        when it was posted, by the *sender's* clock, and when it had arrived, by its own."""

    def fate(self, frame: int, fate: str, reason: str, capture_ns: int, pts_ns: int, output_ns: int) -> None:
        """A frame ended: done, empty, dropped or failed."""

    def event(self, name: str, **facts: int | float | str | None) -> None:
        """Anything worth a line that belongs to no frame."""


class NullObserver:
    """Watches nothing."""

    def stage(self, name: str, frame: int, begin_ns: int, end_ns: int) -> None: ...

    def wait(self, cause: str, lane: str, frame: int, begin_ns: int, end_ns: int) -> None: ...

    def transfer(self, edge: str, frame: int, kind: int, num_bytes: int, begin_ns: int, end_ns: int) -> None: ...

    def fate(self, frame: int, fate: str, reason: str, capture_ns: int, pts_ns: int, output_ns: int) -> None: ...

    def event(self, name: str, **facts: int | float | str | None) -> None: ...
