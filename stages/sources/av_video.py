"""A video file read with PyAV, every frame accounted for."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2

from ...pipeline.errors import SourceError
from ..image import Image
from .frame_ledger import FrameLedger
from .picture_reader import Picture
from .video import nominal_fps

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet as AvPacket
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_MAX_READ_ERRORS = 50
# The display matrix counts anticlockwise.
_TURNS = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in presentation order: with a frame, or with the reason why there is none."""

    pts: int
    frame: VideoFrame | None
    reason: str = ""


class AvVideo:
    """Reads a video file's pictures with PyAV, turned as the file's display matrix says.

    A frame that the file should hold and that cannot be decoded is a picture without image in its place (`FrameLedger` says
    which they are), and so is one that the decoder marks as damaged. A file that is cut at its end gives the
    missing frames its container promises.
    """

    def __init__(self, path: Path) -> None:
        from av.video.reformatter import VideoReformatter

        self._path = path
        self._converter = VideoReformatter()
        self._container, self._stream = self._open()
        stream = self._stream
        self.fps = nominal_fps(float(stream.average_rate or stream.guessed_rate or 0))
        self._size = (stream.height, stream.width)
        self._tick_ns = float(stream.time_base or 1 / self.fps) * 1e9
        self._step = 1e9 / self.fps / self._tick_ns
        self._start = stream.start_time or 0
        self._promised = self._frame_count()
        self._end = self._end_time()
        by_duration = None if self._end is None else round((self._end - self._start) / self._step)
        self.num_pictures: int | None = self._promised or by_duration
        self.description = f"{path} ({stream.codec_context.name}, {stream.width}x{stream.height}, {self.fps:.4g} fps)"
        self._places = self._read_places()
        self._ahead: deque[_Place] = deque()
        for place in self._places:
            self._ahead.append(place)
            if place.frame is not None:
                break
        else:
            self.close()
            raise SourceError(
                f"no frame of the video {path} can be decoded; try it in a player, or convert it to H.264"
            )

    def read(self) -> Picture | None:
        place = self._next()
        if place is None:
            return None
        pts_ns = max(0, round((place.pts - self._start) * self._tick_ns))
        if place.frame is None:
            return Picture(None, place.reason, pts_ns, self._size)
        image = self._to_image(place.frame)
        self._size = (image.shape[0], image.shape[1])
        return Picture(image, "", pts_ns, self._size)

    def skip(self) -> bool:
        return self._next() is not None

    def rewind(self) -> None:
        self.close()
        self._container, self._stream = self._open()
        self._places = self._read_places()

    def name_of(self, index: int) -> str:
        return ""

    def close(self) -> None:
        self._ahead.clear()
        self._places.close()
        self._container.close()

    def _open(self) -> tuple[InputContainer, VideoStream]:
        import av

        try:
            container = av.open(str(self._path))
        except (av.FFmpegError, OSError) as error:
            raise SourceError(
                f"{self._path} is not a video that can be opened ({_first_line(error)}); give another file, or convert it"
            ) from error
        stream = cast("VideoStream | None", container.streams.best("video"))
        # PyAV has a stream without decoder, against its own types.
        if stream is None or getattr(stream, "codec_context", None) is None:
            container.close()
            raise SourceError(f"{self._path} has no video in it that can be decoded; give another file, or convert it")
        stream.thread_type = "AUTO"
        return container, stream

    def _frame_count(self) -> int:
        """How many frames the container says it holds; 0 where it does not say. (In an AVI repeated frames count too.)"""
        if "mp4" not in self._container.format.name:
            return 0
        # The index leaves out what an edit list leaves out; the count does not.
        num_indexed = len(self._stream.index_entries)
        return min(self._stream.frames, num_indexed) if num_indexed else self._stream.frames

    def _end_time(self) -> float | None:
        """Where the last frame ends, in the stream's time base, where the container's header says so."""
        if "avi" in self._container.format.name:
            return self._start + self._stream.frames * self._step
        tag = self._stream.metadata.get("DURATION", "")
        try:
            hours, minutes, seconds = (float(part) for part in tag.split(":"))
        except ValueError:
            return None
        return self._start + (hours * 3600 + minutes * 60 + seconds) * 1e9 / self._tick_ns

    def _next(self) -> _Place | None:
        return self._ahead.popleft() if self._ahead else next(self._places, None)

    def _read_places(self) -> Generator[_Place, None, None]:
        """Decode the file from where it stands."""
        import av

        ledger = FrameLedger(self._step, promised=self._promised, end=self._end)
        pts = self._start - round(self._step)
        for packet in self._packets(ledger):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                ledger.damage()
                continue
            for frame in frames:
                pts = frame.pts if frame.pts is not None else pts + round(self._step)
                if frame.is_corrupt:
                    ledger.damage()
                if ledger.is_counted(pts):
                    continue
                for lost in ledger.shown(pts):
                    yield self._lost(lost)
                yield self._lost(pts) if frame.is_corrupt else _Place(pts, frame)
        for lost in ledger.finish():
            yield self._lost(lost)

    def _packets(self, ledger: FrameLedger) -> Iterator[AvPacket[VideoStream]]:
        """Every packet of the stream, then the one that flushes the decoder. Goes on behind what cannot be read."""
        import av

        num_errors = 0
        while num_errors < _MAX_READ_ERRORS:
            try:
                for packet in self._container.demux(self._stream):
                    if packet.is_discard:
                        ledger.discard()
                    elif packet.size:
                        ledger.packet(packet.pts)
                    if packet.is_corrupt:
                        ledger.damage()
                    yield packet
                return
            except (av.FFmpegError, OSError):
                ledger.damage()
                num_errors += 1

    def _to_image(self, frame: VideoFrame) -> Image:
        # A frame's own to_ndarray would make a new converter for every frame.
        image = cast("Image", self._converter.reformat(frame, format="bgr24").to_ndarray())
        turn = _TURNS.get(frame.rotation % 360)
        return image if turn is None else cast("Image", cv2.rotate(image, turn))

    def _lost(self, pts: int) -> _Place:
        seconds = max(0.0, (pts - self._start) * self._tick_ns / 1e9)
        return _Place(pts, None, f"the frame at {seconds:.3f} s of {self._path} is damaged or missing")


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
