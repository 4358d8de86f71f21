"""The writers that a run asks for, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from ...pipeline.errors import SinkError
from .coco import CocoWriter
from .csv import CsvWriter
from .frames import FramesWriter
from .jsonl import JsonlWriter
from .line_file import cannot_write
from .result import Writer
from .show import ShowWriter

WRITERS = ("jsonl", "video", "frames", "coco", "csv", "show")


def open_writers(
    names: Sequence[str],
    out: Path,
    classes: Sequence[str],
    *,
    fps: float,
    annotations: Path | None = None,
    on_quit: Callable[[], None] | None = None,
) -> list[Writer]:
    """Writers into the folder `out`, which is made.

    `names` are among `WRITERS`; `fps` is the source's, for the video; `annotations` is a COCO annotation file, for `coco`;
    `on_quit` is called when the user ends the `show` window. Raises SinkError.
    """
    unknown = [name for name in names if name not in WRITERS]
    if unknown:
        raise SinkError(f"there is no output {unknown[0]!r}; choose among {', '.join(WRITERS)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    openers: dict[str, Callable[[], Writer]] = {
        "jsonl": lambda: JsonlWriter(out, classes),
        "video": lambda: _open_video(out, fps),
        "frames": lambda: FramesWriter(out),
        "coco": lambda: CocoWriter(out, classes, annotations),
        "csv": lambda: CsvWriter(out, classes),
        "show": lambda: ShowWriter(on_quit),
    }
    writers: list[Writer] = []
    try:
        for name in dict.fromkeys(names):
            writers.append(openers[name]())
    except SinkError:
        for writer in writers:
            writer.close(hurried=True)
        raise
    return writers


def _open_video(out: Path, fps: float) -> Writer:
    if find_spec("av") is not None:
        from .av_video import AvVideoWriter

        return AvVideoWriter(out, fps)
    from .opencv_video import OpenCvVideoWriter

    return OpenCvVideoWriter(out, fps)
