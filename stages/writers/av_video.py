"""`detections.mp4`: an H.264 video of the pictures, written with PyAV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...pipeline.errors import SinkError
from .line_file import cannot_write
from .result import Result
from .video_time import VideoTime, even, fit

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_ENCODERS: dict[str, dict[str, str]] = {
    # No lookahead and no B-frames: what was written is in the file, not in the encoder, when the run is killed.
    "libx264": {"preset": "superfast", "tune": "zerolatency", "crf": "23"},
    "libopenh264": {"rc_mode": "quality"},
    "mpeg4": {"qscale": "4"},
}
_CLUSTER_MS = "500"


class AvVideoWriter:
    """Writes Matroska while the run lasts, which plays also when the run is killed, and copies it into an MP4 at the end.

    Frame times are media times on the grid of `fps`, so frames that were dropped or left out leave the others in time. A
    hurried close leaves the Matroska file, and so does an MP4 that cannot be written.
    """

    draws = True

    def __init__(self, out: Path, fps: float) -> None:
        self.path = "detections.mp4"
        self._target = out / self.path
        self._running = out / "detections.mkv"
        self._time = VideoTime(fps)
        self._rate = self._time.rate
        self._open_video: tuple[OutputContainer, VideoStream] | None = None
        self._size = (0, 0)
        try:
            self._running.write_bytes(b"")
            self._target.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self._running, error) from error

    def write(self, result: Result) -> None:
        import av

        assert result.picture is not None
        try:
            if self._open_video is None:
                self._open_video = self._open(result.picture.shape[0], result.picture.shape[1])
            container, stream = self._open_video
            frame = av.VideoFrame.from_ndarray(fit(result.picture, self._size), format="bgr24")
            frame.pts = self._time.slot(result.pts_ns)
            frame.time_base = 1 / self._rate
            container.mux(stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise _cannot_write(self._running, error) from error

    def flush(self) -> None:
        pass

    def close(self, hurried: bool) -> None:
        import av

        if self._open_video is None:
            self._running.unlink(missing_ok=True)
            return
        container, stream = self._open_video
        try:
            container.mux(stream.encode(None))
            container.close()
        except (av.FFmpegError, OSError) as error:
            raise _cannot_write(self._running, error) from error
        if hurried:
            self.path = self._running.name
            return
        partial = self._target.with_suffix(".mp4.partial")
        try:
            self._copy_into(partial)
            os.replace(partial, self._target)
            self._running.unlink()
        except (av.FFmpegError, OSError) as error:
            partial.unlink(missing_ok=True)
            self.path = self._running.name
            raise SinkError(
                f"{self._running} is complete but could not be copied into {self._target.name}: "
                f"{getattr(error, 'strerror', None) or error}; make room, or keep it"
            ) from error

    def _open(self, height: int, width: int) -> tuple[OutputContainer, VideoStream]:
        import av

        self._size = even((height, width))
        encoder = next((name for name in _ENCODERS if _encodes(name)), None)
        if encoder is None:
            raise SinkError(
                "PyAV has no H.264 or MPEG-4 encoder here; install its wheel: pip install 'splitrail[video]'"
            )
        container = av.open(
            str(self._running),
            "w",
            format="matroska",
            options={"cluster_time_limit": _CLUSTER_MS, "flush_packets": "1"},
        )
        stream = cast("VideoStream", container.add_stream(encoder, rate=self._rate))
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / self._rate
        # One thread: the rest of the cores is the engine's.
        stream.codec_context.thread_count = 1
        stream.options = dict(_ENCODERS[encoder])
        return container, stream

    def _copy_into(self, path: Path) -> None:
        """Copy the packets, without encoding again, onto the exact grid of the frame rate (Matroska counts in ms)."""
        import av

        with (
            av.open(str(self._running)) as source,
            av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as target,
        ):
            video = source.streams.video[0]
            copy = target.add_stream_from_template(video)
            copy.time_base = 1 / self._rate
            last = -1
            for packet in source.demux(video):
                if packet.pts is None or packet.time_base is None:
                    continue
                last = max(last + 1, round(packet.pts * packet.time_base * self._rate))
                packet.stream = copy
                packet.time_base = 1 / self._rate
                packet.pts = packet.dts = last
                packet.duration = 1
                target.mux(packet)


def _encodes(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True


def _cannot_write(path: Path, error: Exception) -> SinkError:
    if isinstance(error, OSError):
        return cannot_write(path, error)
    return SinkError(f"{path} cannot be written: {error}; make room or give another output folder")
