"""Where the results of a run end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..pipeline.clock import now_ns
from ..pipeline.errors import SinkError
from ..pipeline.observer import Observer
from ..pipeline.packet import Array, Kind, Packet, TensorSpec
from .detections import Detections
from .draw import draw_caption, draw_detections
from .gallery import Gallery
from .image import Image
from .writers.result import Fate, Result, Writer
from .writers.writer_thread import WriterThread

_MAX_WAITING_RECORDS = 1024
_MAX_WAITING_PICTURES = 8
_FATES: dict[Kind, Fate] = {Kind.FRAME: "done", Kind.EMPTY: "empty", Kind.FAILED: "failed"}


class Sink:
    """Outbound: tells the observer each frame's fate and hands it to writers, in threads of their own.

    Packets of kind FRAME hold `boxes` [N, 4], `scores` [N] and `labels` [N]; EMPTY and FAILED ones count as frames too. They
    come in frame order; a number that is passed over belongs to a frame dropped before, and it gets its line as well, with its
    times and reason where `dropped` was told.

    Records (lines, tables) are never lost. Pictures wait in a queue of 8: with `lossless` a full queue holds the pipeline up,
    else the picture is left out and counted. A frame without an image in the gallery is left out of the pictures too, except
    a failed one: it is the picture before it with a caption, so that time is kept. `observer.event("pictures_left_out", ...)`
    tells both counts at the end, where there are any.

    A writer's error is raised by the next `send`, and by `close`.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        observer: Observer,
        *,
        classes: Sequence[str],
        gallery: Gallery | None = None,
        name_of: Callable[[int], str] | None = None,
        lossless: bool = True,
        draw_threshold: float = 0.0,
    ) -> None:
        """Pictures show detections with a score of at least `draw_threshold`; records have all of them.

        Raises SinkError where a writer needs pictures and there is no gallery."""
        if gallery is None and any(writer.draws for writer in writers):
            raise SinkError(
                "a video or pictures need the source's images, which stay on the source's host; "
                "put the sink on the rank of the source, or ask for detections only"
            )
        self._observer = observer
        self._classes = classes
        self._gallery = gallery
        self._name_of = name_of
        self._lossless = lossless
        self._draw_threshold = draw_threshold
        self._next_frame = 0
        self._dropped: dict[int, Result] = {}
        self._num_without_image = 0
        self._num_overrun = 0
        self._last_picture: Image | None = None
        self._hurried = False
        records = [writer for writer in writers if not writer.draws]
        pictures = [writer for writer in writers if writer.draws]
        self._records = WriterThread(records, name="records", capacity=_MAX_WAITING_RECORDS)
        self._pictures = (
            WriterThread(pictures, name="pictures", capacity=_MAX_WAITING_PICTURES, prepare=self._draw)
            if pictures
            else None
        )

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> Mapping[str, Array] | None:
        return None

    def send(self, packet: Packet) -> None:
        fate = _FATES.get(packet.kind)
        if fate is None:
            raise ValueError(f"a packet of kind {packet.kind.name} came to the sink")
        detections = Detections.from_tensors(packet.tensors) if fate == "done" else None
        packet.release()
        begin = now_ns()
        self._observer.fate(packet.frame, fate, packet.reason, packet.capture_ns, packet.pts_ns, begin)
        for frame in range(self._next_frame, packet.frame):
            self._records.put(self._dropped.pop(frame, Result(frame, "dropped")), block=True)
        self._next_frame = packet.frame + 1
        name = "" if self._name_of is None else self._name_of(packet.frame)
        result = Result(
            packet.frame, fate, packet.capture_ns, packet.pts_ns, packet.reason, detections, name, packet.source_size
        )
        self._records.put(result, block=True)
        image = None if self._gallery is None else self._gallery.take(packet.frame)
        handed_ns = now_ns()
        if self._pictures is not None and not self._pictures.put(replace(result, picture=image), block=self._lossless):
            self._num_overrun += 1
        self._observer.wait("sink", "pictures", packet.frame, handed_ns, now_ns())
        self._observer.stage("output", packet.frame, begin, now_ns())

    def dropped(self, packet: Packet, reason: str) -> None:
        """From any thread, where the queue that drops is on this rank: what to say of a frame that will not come."""
        size = packet.source_size
        self._dropped[packet.frame] = Result(
            packet.frame, "dropped", packet.capture_ns, packet.pts_ns, reason, source_size=size
        )

    def hurry(self) -> None:
        """The run has failed: `close` leaves what is written as it is, valid, instead of finishing it with care."""
        self._hurried = True

    def close(self) -> None:
        try:
            for frame in sorted(self._dropped):
                self._records.put(self._dropped.pop(frame), block=True)
            self._records.close(hurried=self._hurried)
        finally:
            if self._pictures is not None:
                self._pictures.close(hurried=self._hurried)
            if self._num_without_image or self._num_overrun:
                facts = {"no_image": self._num_without_image, "writer_too_slow": self._num_overrun}
                self._observer.event("pictures_left_out", **facts)

    def _draw(self, result: Result) -> Result | None:
        """In the pictures' thread: the result with everything drawn, or None where there is nothing to draw on."""
        picture = result.picture
        if picture is None and result.fate == "failed":
            if self._last_picture is not None:
                picture = self._last_picture.copy()
            elif 0 not in result.source_size:
                picture = np.zeros((*result.source_size, 3), np.uint8)
        if picture is None:
            self._num_without_image += 1
            return None
        if result.detections is not None:
            draw_detections(picture, result.detections.above(self._draw_threshold), self._classes)
        elif result.fate == "failed":
            draw_caption(picture, f"frame {result.frame} failed: {result.reason}")
        self._last_picture = picture
        return replace(result, picture=picture)
