"""A video file read with OpenCV alone."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import cv2

from ...pipeline.errors import SourceError
from ..image import Image
from .picture_reader import Picture
from .video import nominal_fps

_COUNTED_SUFFIXES = (".mp4", ".m4v", ".mov")


class OpenCvVideo:
    """Reads a video file's pictures with OpenCV, turned as the file's display matrix says.

    In an MP4, which counts its frames, those that are promised and do not come are pictures without image; elsewhere OpenCV's
    count is only duration times rate, and the file ends where decoding does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture = self._open()
        self.fps = nominal_fps(self._capture.get(cv2.CAP_PROP_FPS))
        self._size = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        )
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_pictures: int | None = count if count > 0 else None
        self._promised = count if path.suffix.lower() in _COUNTED_SUFFIXES else 0
        self._read = 0
        self._pts_ns = 0
        self.description = f"{path} ({self._size[1]}x{self._size[0]}, {self.fps:.4g} fps, read with OpenCV)"
        if not self._capture.grab():
            raise SourceError(
                f"no frame of the video {path} can be decoded; try it in a player, or convert it to H.264"
            )
        self.rewind()

    def read(self) -> Picture | None:
        if not self._capture.grab():
            return self._missing()
        self._advance()
        decoded, image = self._capture.retrieve()
        if not decoded:
            return Picture(None, f"frame {self._read - 1} of {self._path} cannot be decoded", self._pts_ns, self._size)
        return Picture(cast("Image", image), "", self._pts_ns, (image.shape[0], image.shape[1]))

    def skip(self) -> bool:
        if self._capture.grab():
            self._advance()
            return True
        return self._missing() is not None

    def rewind(self) -> None:
        self._capture.release()
        self._capture = self._open()
        self._read = 0

    def name_of(self, index: int) -> str:
        return ""

    def close(self) -> None:
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(
                f"{self._path} is not a video that OpenCV can open; convert it to H.264, or give another file"
            )
        return capture

    def _advance(self) -> None:
        self._read += 1
        self._pts_ns = round(max(0.0, self._capture.get(cv2.CAP_PROP_POS_MSEC)) * 1e6)

    def _missing(self) -> Picture | None:
        """The next frame that the container promises and that does not come."""
        if self._read >= self._promised:
            return None
        reason = (
            f"frame {self._read} of {self._path} is missing: the file promises {self._promised} and is damaged or cut"
        )
        self._read += 1
        self._pts_ns += round(1e9 / self.fps)
        return Picture(None, reason, self._pts_ns, self._size)
