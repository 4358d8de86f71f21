"""What a frame's end looks like to a writer, and what a writer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ..detections import Detections
from ..image import Image

Fate = Literal["done", "empty", "dropped", "failed"]


@dataclass(frozen=True, slots=True)
class Result:
    """A frame that has ended."""

    frame: int
    fate: Fate
    capture_ns: int | None = None
    """None, like `pts_ns`, for a frame that another rank dropped: the sink knows only its number."""
    pts_ns: int | None = None
    reason: str = ""
    """Why a frame failed or was dropped, else empty."""
    detections: Detections | None = None
    """None where the frame is not done."""
    name: str = ""
    """File name of an image source's frame, else empty."""
    source_size: tuple[int, int] = (0, 0)
    """Height and width of the source image, pixels; (0, 0) where it is not known."""
    picture: Image | None = None
    """The source image with the detections drawn on it, for writers of pictures; not theirs to change."""


class Writer(Protocol):
    """Writes results in frame order. All calls come from one thread."""

    path: str
    """The file or folder it writes, relative to the output folder; empty where there is none."""
    draws: bool
    """Whether it needs `Result.picture`; it then gets no result without one."""

    def write(self, result: Result) -> None:
        """Take one result. Raises SinkError naming what cannot be written."""

    def flush(self) -> None:
        """Let what was written so far outlive this process. Called about once a second."""

    def close(self, hurried: bool) -> None:
        """Finish the output. With `hurried` the run has failed: leave something valid, and take no time."""
