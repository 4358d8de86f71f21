"""Where a run's frames come from: the source contract, its options, and `open_source`, which reads `--source`."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..pipeline.endpoint import Inbound
from ..pipeline.errors import SourceError
from ..pipeline.observer import NullObserver, Observer
from .sources.camera import CameraSource
from .sources.images import IMAGE_SUFFIXES, ImageReader
from .sources.replay import ReplaySource
from .sources.video import open_video

_URL = re.compile(r"(rtsps?|rtmps?|https?|udp|tcp|srt)://", re.IGNORECASE)


class Source(Inbound, Protocol):
    """An inbound that captures frames.

    Its packets are numbered 0, 1, ... without gaps over the frames taken, hold `tensors["image"]` uint8 [H, W, 3] BGR, and are
    of kind FAILED with a reason where a frame could not be decoded.
    """

    fps: float
    """Frames per second of media time, for whoever writes a video of the results."""
    num_frames: int | None
    """How many frames to expect; None where nobody knows."""
    live: bool
    """Frames come when they come (camera, URL, or a file played at `rate`), so a slow pipeline has to drop some."""
    description: str
    """One line for the report."""

    def name_of(self, frame: int) -> str:
        """File name of an image source's frame; empty for video."""

    def stop(self) -> None:
        """From any thread: `receive` returns None from now on, also when it is blocked."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is played.

    Raises SourceError for a value out of range.
    """

    stride: int = 1
    """Take every stride-th frame; files and images only."""
    max_frames: int | None = None
    """End after this many frames taken."""
    loop: bool = False
    """Begin again at the end, until `max_frames` or `stop`; files and images only."""
    rate: float | None = None
    """Frames per second at which a file is played, as a camera would; None is as fast as they are asked for."""
    reconnect_timeout_s: float = 60.0
    """How long a broken live source is tried again before the run ends with an error."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise SourceError(f"stride is {self.stride} and must be at least 1")
        if self.max_frames is not None and self.max_frames < 1:
            raise SourceError(f"max_frames is {self.max_frames} and must be at least 1")
        if self.rate is not None and not (math.isfinite(self.rate) and 0 < self.rate <= 100_000):
            raise SourceError(f"rate is {self.rate} and must be above 0 and at most 100000 frames per second")
        if not (math.isfinite(self.reconnect_timeout_s) and self.reconnect_timeout_s >= 0):
            raise SourceError(f"reconnect_timeout_s is {self.reconnect_timeout_s} and must be 0 or more seconds")


Opener = Callable[[str, SourceOptions], Source]
"""Gets what follows the prefix and its colon, and the options."""
_openers: dict[str, Opener] = {}


def register_source(prefix: str, opener: Opener) -> None:
    """Make `prefix` and `prefix:arguments` a source of its own kind, for instance a generated one."""
    _openers[prefix] = opener


def open_source(text: str, options: SourceOptions | None = None, observer: Observer | None = None) -> Source:
    """The source that `text` names.

    A registered prefix; a URL (rtsp, http, ...); a camera as its index or /dev/videoN; a folder of images; a glob; a list
    file (.txt, a path per line); one image; else a video file. A file that bears such a name is reached as ./NAME.

    `observer` hears of a live source that breaks and comes back. Raises SourceError.
    """
    options = options or SourceOptions()
    observer = observer or NullObserver()
    if not text.strip():
        raise SourceError("the source is empty; give a video file, images, a camera index or a URL")
    prefix, _, arguments = text.partition(":")
    if prefix in _openers:
        return _openers[prefix](arguments, options)
    if _URL.match(text) or text.isdecimal() or re.fullmatch(r"/dev/video\d+", text):
        return _open_camera(text, options, observer)
    path = Path(text).expanduser()
    if path.is_dir():
        return ReplaySource(ImageReader.from_folder(path, options.rate), options)
    if not path.exists() and glob.has_magic(text):
        return ReplaySource(ImageReader.from_glob(str(path), options.rate), options)
    if not path.exists():
        raise SourceError(
            f"the source {text!r} does not exist; give a video file, a folder or glob of images, a .txt list, a camera "
            f"index or a URL"
        )
    if path.suffix.lower() == ".txt":
        return ReplaySource(ImageReader.from_list(path, options.rate), options)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ReplaySource(ImageReader([path], str(path), options.rate), options)
    return ReplaySource(open_video(path), options)


def _open_camera(text: str, options: SourceOptions, observer: Observer) -> CameraSource:
    for name, given in (("stride", options.stride != 1), ("loop", options.loop), ("rate", options.rate is not None)):
        if given:
            raise SourceError(f"{name} is for files and does not go with the live source {text!r}; leave it out")
    return CameraSource(
        text, max_frames=options.max_frames, reconnect_timeout_s=options.reconnect_timeout_s, observer=observer
    )
