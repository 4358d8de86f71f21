"""What a replayed source reads from: pictures in presentation order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..image import Image


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture, or the place where one should have been."""

    image: Image | None
    """None where it could not be decoded."""
    reason: str
    """Why `image` is None, else empty."""
    pts_ns: int
    """Media time from the start of the file, ns."""
    size: tuple[int, int]
    """Height and width in pixels; (0, 0) where it is not known."""


class PictureReader(Protocol):
    """A file, or several, that can be read once and from the start again."""

    fps: float
    num_pictures: int | None
    """How many `read` will give; None where the file does not say."""
    description: str

    def read(self) -> Picture | None:
        """The next picture, or None after the last. A picture that cannot be decoded is no error."""

    def skip(self) -> bool:
        """Pass over the next picture; False after the last."""

    def rewind(self) -> None:
        """Begin again at the first picture."""

    def name_of(self, index: int) -> str:
        """File name of the picture with this index, or empty."""

    def close(self) -> None:
        """Let go of the file."""
