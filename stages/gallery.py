"""Images of the frames in flight, kept on the source's rank until their detections come back."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import cast

from ..pipeline.packet import Packet
from .image import Image


class Gallery:
    """Frame number -> image, from the lane that captures to the lane that draws. Safe between threads.

    Frames are asked for in order, so `take` lets go of every older image (frames that were dropped on their way). Beyond
    `max_bytes` the oldest images are given up and counted in `num_given_up`; their frames are left out of the pictures.
    """

    def __init__(self, max_bytes: int = 512 << 20) -> None:
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._num_bytes = 0
        self._max_bytes = max_bytes
        self._lock = Lock()
        self.num_given_up = 0

    def keep(self, packet: Packet) -> None:
        """Keep the packet's `image`, if it has one; an array in a receive buffer is copied."""
        image = packet.tensors.get("image")
        if image is None:
            return
        kept: Image = cast("Image", image if packet.held is None else image.copy())
        with self._lock:
            self._forget(packet.frame)
            self._images[packet.frame] = kept
            self._num_bytes += kept.nbytes
            while self._num_bytes > self._max_bytes and len(self._images) > 1:
                self._forget(next(iter(self._images)))
                self.num_given_up += 1

    def take(self, frame: int) -> Image | None:
        """The frame's image, which is the caller's from now on, or None. Images of older frames are let go."""
        with self._lock:
            image = self._images.get(frame)
            while self._images and (oldest := next(iter(self._images))) <= frame:
                self._forget(oldest)
            return image

    def __len__(self) -> int:
        return len(self._images)

    def _forget(self, frame: int) -> None:
        image = self._images.pop(frame, None)
        if image is not None:
            self._num_bytes -= image.nbytes
