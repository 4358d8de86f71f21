"""Cameras and streams: a device of this host, or a URL."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Condition, Thread
from typing import cast

import cv2

from ...pipeline.clock import now_ns
from ...pipeline.errors import SourceError
from ...pipeline.observer import NullObserver, Observer
from ...pipeline.packet import Packet
from ..image import Image
from .video import nominal_fps, quiet_opencv

_OPEN_TIMEOUT_MS = 10_000
_READ_TIMEOUT_MS = 5_000
_FIRST_BACKOFF_S = 0.5
_MAX_BACKOFF_S = 5.0
_CLOSE_TIMEOUT_S = 1.0


class CameraSource:
    """Live frames.

    A thread of its own grabs, so `stop` ends a blocked `receive` at once and `capture_ns` is the time of grabbing. It holds
    one frame and waits until that is taken: what to drop is the pipeline's policy, not the source's.

    A camera that fails is opened again and again, after 0.5, 1, 2, 4, 5, 5, ... s, with the events `source_lost` and
    `source_back`; when no frame has come for `reconnect_timeout_s`, `receive` raises SourceError. The frames of a URL that
    states its length end with None.
    """

    live = True

    def __init__(
        self,
        address: str,
        *,
        max_frames: int | None = None,
        reconnect_timeout_s: float = 60.0,
        observer: Observer | None = None,
    ) -> None:
        """`address` is an index, /dev/videoN or a URL. Raises SourceError where it does not open."""
        self._address = address
        self._max_frames = max_frames
        self._reconnect_timeout_s = reconnect_timeout_s
        self._observer = observer or NullObserver()
        self.num_frames = max_frames
        capture = self._open()
        self.fps = nominal_fps(capture.get(cv2.CAP_PROP_FPS))
        self._size = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        self.description = f"{_public(address)} ({self._size[1]}x{self._size[0]}, {self.fps:.4g} fps)"
        self._frame = 0
        self._first_ns: int | None = None
        self._changed = Condition()
        self._grabbed: tuple[int, Image | None] | None = None
        self._stopped = False
        self._ended = False
        self._lost_ns: int | None = None
        self._backoff_s = _FIRST_BACKOFF_S
        self._error: Exception | None = None
        self._thread = Thread(target=self._grab_all, args=(capture,), name=f"camera {_public(address)}", daemon=True)
        self._thread.start()

    def receive(self) -> Packet | None:
        if self._frame == self._max_frames:
            return None
        with self._changed:
            self._changed.wait_for(lambda: self._grabbed or self._stopped or self._ended)
            grabbed, self._grabbed = self._grabbed, None
            self._changed.notify_all()
        if self._stopped:
            return None
        if grabbed is None:
            if self._error is not None:
                raise self._error
            return None
        capture_ns, image = grabbed
        self._first_ns = capture_ns if self._first_ns is None else self._first_ns
        if image is not None:
            self._size = (image.shape[0], image.shape[1])
        packet = Packet(self._frame, capture_ns, capture_ns - self._first_ns, self._size)
        if image is None:
            packet.fail(f"frame {self._frame} of {_public(self._address)} cannot be decoded")
        else:
            packet.tensors["image"] = image
        self._frame += 1
        return packet

    def name_of(self, frame: int) -> str:
        return ""

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        self.stop()
        # A read that hangs ends by its own time limit; the thread then lets go of the device.
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _grab_all(self, capture: cv2.VideoCapture) -> None:
        try:
            while self._hand_over(capture):
                capture.release()
                capture = self._reopen()
        except Exception as error:
            self._error = error
        finally:
            capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, capture: cv2.VideoCapture) -> bool:
        """Hand over frame after frame; True when the camera is lost, False when the source has ended or was stopped."""
        length = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if "://" in self._address else 0
        num_grabbed = 0
        while capture.grab():
            capture_ns = now_ns()
            num_grabbed += 1
            if self._lost_ns is not None:
                seconds = (capture_ns - self._lost_ns) / 1e9
                self._observer.event("source_back", source=_public(self._address), seconds=seconds)
                self._lost_ns = None
            decoded, image = capture.retrieve()
            with self._changed:
                self._changed.wait_for(lambda: self._grabbed is None or self._stopped)
                if self._stopped:
                    return False
                self._grabbed = (capture_ns, cast("Image", image) if decoded else None)
                self._changed.notify_all()
        return not self._stopped and not 0 < length <= num_grabbed

    def _reopen(self) -> cv2.VideoCapture:
        """Open it again. Raises SourceError once no frame has come for `reconnect_timeout_s`, or when stopped."""
        name = _public(self._address)
        if self._lost_ns is None:
            self._lost_ns = now_ns()
            self._backoff_s = _FIRST_BACKOFF_S
            self._observer.event("source_lost", source=name)
        while True:
            left_s = self._reconnect_timeout_s - (now_ns() - self._lost_ns) / 1e9
            with self._changed:
                stopped = self._changed.wait_for(lambda: self._stopped, max(0.0, min(self._backoff_s, left_s)))
            if stopped or left_s <= 0:
                raise SourceError(
                    f"{name} was lost and did not come back within {self._reconnect_timeout_s:g} s; check it and start again"
                )
            self._backoff_s = min(self._backoff_s * 2, _MAX_BACKOFF_S)
            try:
                return self._open()
            except SourceError:
                continue

    def _open(self) -> cv2.VideoCapture:
        name = _public(self._address)
        if "://" not in self._address:
            device = self._address if self._address.startswith("/") else f"/dev/video{self._address}"
            if not Path(device).exists():
                raise SourceError(f"there is no camera {device} on this host; plug it in, or give another index")
            capture = cv2.VideoCapture(int(re.sub(r"\D", "", device)))
        else:
            quiet_opencv()
            timeouts = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                _OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                _READ_TIMEOUT_MS,
            ]
            capture = cv2.VideoCapture(self._address, cv2.CAP_FFMPEG, timeouts)
        if not capture.isOpened():
            raise SourceError(f"{name} cannot be opened; check that it is there, not in use, and that you may read it")
        return capture


def _public(address: str) -> str:
    """The address without the password that a URL may hold."""
    return re.sub(r"//[^/@]*@", "//", address)
