"""Video files: through PyAV where it is installed, else through OpenCV."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path

from ...pipeline.errors import SourceError
from .picture_reader import PictureReader

_DEFAULT_FPS = 25.0
_FFMPEG_FATAL = "8"


def open_video(path: Path) -> PictureReader:
    """A reader of the video file's pictures. Raises SourceError where there is none that can be decoded.

    PyAV says of every packet whether it became a picture, so a damaged file is accounted for frame by frame; OpenCV stops
    at some kinds of damage, and what the container promised beyond is then failed frames.
    """
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise SourceError(f"the video {path} cannot be read: {error.strerror}") from error
    if empty:
        raise SourceError(f"the video {path} is an empty file; give one with pictures in it")
    if find_spec("av") is not None:
        from .av_video import AvVideo

        return AvVideo(path)
    from .opencv_video import OpenCvVideo

    quiet_opencv()
    return OpenCvVideo(path)


def quiet_opencv() -> None:
    """Keep the FFmpeg inside OpenCV from printing a line per damaged block; what is lost is told by the frames."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_FATAL)


def nominal_fps(claimed: float | None) -> float:
    """The frame rate a container or device claims, or 25 where the claim cannot be meant."""
    if claimed is None or not math.isfinite(claimed) or not 0.01 <= claimed <= 1000:
        return _DEFAULT_FPS
    return float(claimed)
