"""Images from a folder, a glob or a list file."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from ...pipeline.errors import SourceError
from ..image import Image
from .picture_reader import Picture

IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
_DEFAULT_FPS = 25.0
_SHORT_NAMES = 60


class ImageReader:
    """Reads images one by one; any channel depth becomes uint8 BGR, turned as its EXIF orientation says.

    An image that is missing or unreadable is a picture without image. `rate` is the media rate they are shown at, frames
    per second (25 when None).
    """

    def __init__(self, paths: Sequence[Path], description: str, rate: float | None = None) -> None:
        self._paths = list(paths)
        self._next = 0
        self.fps = rate or _DEFAULT_FPS
        self.num_pictures: int | None = len(self._paths)
        self.description = f"{description} ({len(self._paths)} image{'s' if len(self._paths) > 1 else ''})"

    @staticmethod
    def from_folder(folder: Path, rate: float | None = None) -> ImageReader:
        """Every image of the folder, in natural order (2.jpg before 10.jpg). Raises SourceError where there is none."""
        try:
            paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        except OSError as error:
            raise SourceError(f"the folder {folder} cannot be read: {error.strerror}") from error
        paths = [path for path in paths if not path.name.startswith(".") and path.is_file()]
        if not paths:
            raise SourceError(f"the folder {folder} holds no image; images end in {_suffixes()}")
        return ImageReader(sorted(paths, key=_natural), str(folder), rate)

    @staticmethod
    def from_glob(pattern: str, rate: float | None = None) -> ImageReader:
        """Every image that matches, in natural order. Raises SourceError where there is none."""
        paths = [Path(match) for match in glob.glob(pattern, recursive=True)]
        paths = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
        if not paths:
            raise SourceError(f"no image matches {pattern!r}; images end in {_suffixes()}")
        return ImageReader(sorted(paths, key=_natural), pattern, rate)

    @staticmethod
    def from_list(path: Path, rate: float | None = None) -> ImageReader:
        """The images a text file names, one path per line relative to that file, in its order; empty lines and lines that
        begin with # are passed over. Raises SourceError for a line that names no image."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"the list {path} cannot be read as text: {error}") from error
        paths = []
        for number, line in enumerate(lines, start=1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            if Path(entry).suffix.lower() not in IMAGE_SUFFIXES:
                short = entry if len(entry) <= _SHORT_NAMES else entry[:_SHORT_NAMES] + "..."
                raise SourceError(f"line {number} of {path} names no image: {short!r} does not end in {_suffixes()}")
            paths.append(path.parent / Path(entry).expanduser())
        if not paths:
            raise SourceError(f"the list {path} names no image; write one path per line")
        return ImageReader(paths, str(path), rate)

    def read(self) -> Picture | None:
        if self._next == len(self._paths):
            return None
        path = self._paths[self._next]
        pts_ns = round(self._next * 1e9 / self.fps)
        self._next += 1
        try:
            data = np.fromfile(path, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except OSError as error:
            return Picture(None, f"{path} cannot be read: {error.strerror}", pts_ns, (0, 0))
        except cv2.error as error:
            return Picture(None, f"{path} cannot be decoded: {error.err}", pts_ns, (0, 0))
        if image is None:
            return Picture(None, f"{path} is not an image that OpenCV can decode", pts_ns, (0, 0))
        return Picture(cast("Image", image), "", pts_ns, (image.shape[0], image.shape[1]))

    def skip(self) -> bool:
        if self._next == len(self._paths):
            return False
        self._next += 1
        return True

    def rewind(self) -> None:
        self._next = 0

    def name_of(self, index: int) -> str:
        return self._paths[index].name if index < len(self._paths) else ""

    def close(self) -> None:
        self._next = len(self._paths)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key in which numbers compare as numbers."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), part) if index % 2 else (0, part.casefold()) for index, part in enumerate(parts)]


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)
