"""`detections.mkv`: an MPEG-4 video of the pictures, written with OpenCV where PyAV is not installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2

from ...pipeline.errors import SinkError
from ..image import Image
from .line_file import cannot_write
from .result import Result
from .video_time import VideoTime, even, fit

_MIN_FREE_BYTES = 16 << 20
_MAX_REPEATS = 250


class OpenCvVideoWriter:
    """Writes Matroska with the codec mp4v, which plays also when the run is killed. OpenCV cannot copy it into an MP4.

    The rate is constant, so a frame that was dropped or left out is the picture before it once more.
    """

    draws = True

    def __init__(self, out: Path, fps: float) -> None:
        self.path = "detections.mkv"
        self._file = out / self.path
        self._time = VideoTime(fps)
        self._next_slot = 0
        self._last: Image | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        try:
            self._file.write_bytes(b"")
        except OSError as error:
            raise cannot_write(self._file, error) from error

    def write(self, result: Result) -> None:
        assert result.picture is not None
        if self._writer is None:
            self._size = even((result.picture.shape[0], result.picture.shape[1]))
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(
                str(self._file), cv2.CAP_FFMPEG, fourcc, float(self._time.rate), self._size[::-1]
            )
            if not self._writer.isOpened():
                raise SinkError(
                    f"OpenCV cannot write the video {self._file}; install PyAV: pip install 'splitrail[video]'"
                )
        slot = self._time.slot(result.pts_ns)
        # A clock that leaps must not fill the disk.
        if self._last is not None:
            for _ in range(min(slot - self._next_slot, _MAX_REPEATS)):
                self._writer.write(self._last)
        self._last = fit(result.picture, self._size)
        self._writer.write(self._last)
        self._next_slot = slot + 1

    def flush(self) -> None:
        # OpenCV does not tell when the disk is full.
        if shutil.disk_usage(self._file.parent).free < _MIN_FREE_BYTES:
            raise SinkError(
                f"{self._file} cannot be written: less than 16 MiB are free; make room or give another output folder"
            )

    def close(self, hurried: bool) -> None:
        if self._writer is None:
            self._file.unlink(missing_ok=True)
        else:
            self._writer.release()
