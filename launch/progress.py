"""A progress bar that follows a run from outside, by the results it has written."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..bench.journal import journal_path, read_journal
from ..bench.summary import DETECTIONS


class RunProgress:
    """Frames with a result out of those expected; shown on a terminal only."""

    def __init__(self, out: Path, console: Console) -> None:
        self._out = out
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID | None = None
        self._read = 0
        self._num_frames = 0

    def __enter__(self) -> RunProgress:
        self._bar.start()
        self._task = self._bar.add_task("starting", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self) -> None:
        """Look how far the run is."""
        if self._bar.disable or self._task is None:
            return
        path = self._out / DETECTIONS
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            self._num_frames += new.count(b"\n")
        if self._num_frames and self._bar.tasks[0].total is None:
            self._bar.update(self._task, total=self._total(), description="frames")
        self._bar.update(self._task, completed=self._num_frames)

    def _total(self) -> int | None:
        for path in sorted(self._out.glob("journal-rank*.jsonl")) or [journal_path(self._out, 0)]:
            if path.exists():
                begin = next(iter(read_journal(path)), {})
                source = begin.get("source")
                if isinstance(source, dict):
                    total = source.get("num_frames")
                    return int(total) if total is not None else None
        return None
