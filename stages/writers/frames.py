"""`frames/`: a picture per frame."""

from __future__ import annotations

from pathlib import Path

import cv2

from .line_file import cannot_write
from .result import Result

_QUALITY = 92


class FramesWriter:
    """JPEG files `frames/000000.jpg`, numbered as the frames are; frames that were dropped have none."""

    draws = True

    def __init__(self, out: Path) -> None:
        self.path = "frames"
        self._folder = out / self.path
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self._folder, error) from error

    def write(self, result: Result) -> None:
        assert result.picture is not None
        path = self._folder / f"{result.frame:06d}.jpg"
        _, data = cv2.imencode(".jpg", result.picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        try:
            path.write_bytes(data.tobytes())
        except OSError as error:
            raise cannot_write(path, error) from error

    def flush(self) -> None:
        pass

    def close(self, hurried: bool) -> None:
        pass
