"""The sink: fates, order, back-pressure, and errors of writers."""

from __future__ import annotations

from threading import Event, Thread

import numpy as np
import pytest

from splitrail.pipeline.errors import SinkError
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Kind, Packet
from splitrail.stages.detections import Detections
from splitrail.stages.gallery import Gallery
from splitrail.stages.sink import Sink
from splitrail.stages.writers.result import Result, Writer

CLASSES = ["car", "person"]


class Recorder:
    """A writer that remembers, and can be held up or made to fail."""

    path = ""

    def __init__(self, *, draws: bool = False, fails_at: int | None = None) -> None:
        self.draws = draws
        self.results: list[Result] = []
        self.num_flushes = 0
        self.closed: list[bool] = []
        self.may_write = Event()
        self.may_write.set()
        self.writes = Event()
        self._fails_at = fails_at

    def write(self, result: Result) -> None:
        self.writes.set()
        assert self.may_write.wait(30)
        if result.frame == self._fails_at:
            raise SinkError("out/video.mkv cannot be written: No space left on device; make room")
        self.results.append(result)

    def flush(self) -> None:
        self.num_flushes += 1

    def close(self, hurried: bool) -> None:
        self.closed.append(hurried)

    @property
    def frames(self) -> list[int]:
        return [result.frame for result in self.results]


class Watcher(NullObserver):
    def __init__(self) -> None:
        self.fates: list[tuple[int, str, str, int, int]] = []
        self.output_ns: list[int] = []
        self.events: list[tuple[str, dict[str, int | float | str | None]]] = []
        self.waits: dict[tuple[str, str, int], tuple[int, int]] = {}
        self.outputs: dict[int, tuple[int, int]] = {}

    def wait(self, cause: str, lane: str, frame: int, begin_ns: int, end_ns: int) -> None:
        self.waits[cause, lane, frame] = begin_ns, end_ns

    def stage(self, name: str, frame: int, begin_ns: int, end_ns: int) -> None:
        assert name == "output"
        self.outputs[frame] = begin_ns, end_ns

    def fate(self, frame: int, fate: str, reason: str, capture_ns: int, pts_ns: int, output_ns: int) -> None:
        self.fates.append((frame, fate, reason, capture_ns, pts_ns))
        self.output_ns.append(output_ns)

    def event(self, name: str, **facts: int | float | str | None) -> None:
        self.events.append((name, facts))


def packet(frame: int, kind: Kind = Kind.FRAME, reason: str = "") -> Packet:
    packet = Packet(frame, 1000 + frame, 40_000_000 * frame, (24, 32))
    if kind is Kind.FRAME:
        packet.tensors = Detections(
            np.array([[4, 4, 20, 20]], np.float32), np.array([0.75], np.float32), np.array([1], np.int32)
        ).to_tensors()
    elif kind is Kind.EMPTY:
        packet.empty()
    else:
        packet.fail(reason)
    return packet


def picture(frame: int) -> Packet:
    return Packet(frame, 0, 0, (24, 32), tensors={"image": np.full((24, 32, 3), 50 + frame % 200, np.uint8)})


def sink_of(*writers: Writer, lossless: bool = True, gallery: Gallery | None = None) -> tuple[Sink, Watcher]:
    watcher = Watcher()
    sink = Sink(
        writers, watcher, classes=CLASSES, gallery=gallery, name_of=lambda frame: f"{frame}.jpg", lossless=lossless
    )
    return sink, watcher


def test_every_kind_gets_its_fate_and_its_record() -> None:
    writer = Recorder()
    sink, watcher = sink_of(writer)
    released = []
    first = packet(0)
    first.held = lambda: released.append(True)
    assert sink.reserve(first, None) is None
    sink.send(first)
    assert released == [True]
    sink.send(packet(1, Kind.EMPTY))
    sink.send(packet(2, Kind.FAILED, "not finite"))
    sink.close()
    assert watcher.fates == [
        (0, "done", "", 1000, 0),
        (1, "empty", "", 1001, 40_000_000),
        (2, "failed", "not finite", 1002, 80_000_000),
    ]
    assert all(output_ns > 0 for output_ns in watcher.output_ns)
    assert [result.fate for result in writer.results] == ["done", "empty", "failed"]
    assert [result.name for result in writer.results] == ["0.jpg", "1.jpg", "2.jpg"]
    assert writer.results[0].detections is not None
    assert writer.results[0].detections.labels.tolist() == [1]
    assert writer.results[1].detections is None
    assert writer.closed == [False]


def test_numbers_that_were_passed_over_are_records_of_dropped_frames() -> None:
    writer = Recorder()
    sink, watcher = sink_of(writer)
    for frame in (1, 4):
        sink.send(packet(frame))
    sink.close()
    assert [(result.frame, result.fate) for result in writer.results] == [
        (0, "dropped"),
        (1, "done"),
        (2, "dropped"),
        (3, "dropped"),
        (4, "done"),
    ]
    assert [frame for frame, *_ in watcher.fates] == [1, 4]


def test_dropped_frames_have_their_times_where_they_are_told_also_after_the_last_frame() -> None:
    writer = Recorder()
    sink, _ = sink_of(writer)
    sink.dropped(packet(0), "the queue was full")
    sink.send(packet(1))
    sink.dropped(packet(3), "later")
    sink.dropped(packet(2), "late")
    sink.close()
    assert [(result.frame, result.fate, result.reason) for result in writer.results] == [
        (0, "dropped", "the queue was full"),
        (1, "done", ""),
        (2, "dropped", "late"),
        (3, "dropped", "later"),
    ]
    assert writer.results[0].capture_ns == 1000
    assert writer.results[3].pts_ns == 120_000_000


def test_detections_are_copied_out_of_the_receive_buffer() -> None:
    writer = Recorder()
    sink, _ = sink_of(writer)
    sent = packet(0)
    scores = sent.tensors["scores"]
    sink.send(sent)
    scores[:] = 0
    sink.close()
    assert writer.results[0].detections is not None
    assert writer.results[0].detections.scores.tolist() == [0.75]


def test_pictures_are_drawn_for_done_frames_only_and_failed_ones_get_a_caption() -> None:
    gallery, writer = Gallery(), Recorder(draws=True)
    sink, watcher = sink_of(writer, gallery=gallery)
    for frame in range(4):
        gallery.keep(picture(frame))
    sink.send(packet(0))
    sink.send(packet(1, Kind.EMPTY))
    sink.send(packet(2, Kind.FAILED, "why"))
    sink.send(packet(3))
    sink.send(packet(4, Kind.FAILED, "not decoded"))
    sink.send(packet(5))
    sink.close()
    assert writer.frames == [0, 1, 2, 3, 4]
    pictures = [result.picture for result in writer.results]
    assert all(picture is not None and picture.shape == (24, 32, 3) for picture in pictures)
    assert (pictures[0] != 50).any()
    assert (pictures[1] == 51).all()
    assert (pictures[2] != 52).any()
    # Frame 4 never had an image: the one before it, captioned.
    assert np.array_equal(pictures[4][:5], pictures[3][:5])
    assert not np.array_equal(pictures[4], pictures[3])
    assert watcher.events == [("pictures_left_out", {"no_image": 1, "writer_too_slow": 0})]


def test_a_failed_first_frame_is_black_with_a_caption() -> None:
    writer = Recorder(draws=True)
    sink, watcher = sink_of(writer, gallery=Gallery())
    sink.send(packet(0, Kind.FAILED, "not decoded"))
    sink.close()
    assert writer.frames == [0]
    assert writer.results[0].picture is not None
    assert (writer.results[0].picture[0] == 0).all()
    assert watcher.events == []


def test_a_live_run_leaves_pictures_out_and_loses_no_record() -> None:
    gallery, slow, records = Gallery(), Recorder(draws=True), Recorder()
    sink, watcher = sink_of(slow, records, lossless=False, gallery=gallery)
    slow.may_write.clear()
    for frame in range(100):
        gallery.keep(picture(frame))
        sink.send(packet(frame))
    assert slow.writes.wait(30)
    slow.may_write.set()
    sink.close()
    assert records.frames == list(range(100))
    assert 8 <= len(slow.frames) <= 9
    assert slow.frames == sorted(slow.frames)
    assert watcher.events == [("pictures_left_out", {"no_image": 0, "writer_too_slow": 100 - len(slow.frames)})]


def test_a_lossless_run_waits_for_a_slow_writer() -> None:
    gallery, slow = Gallery(), Recorder(draws=True)
    sink, watcher = sink_of(slow, gallery=gallery)
    slow.may_write.clear()
    sent = []

    def send_all() -> None:
        for frame in range(30):
            gallery.keep(picture(frame))
            sink.send(packet(frame))
            sent.append(frame)

    thread = Thread(target=send_all)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert len(sent) <= 9
    slow.may_write.set()
    thread.join(30)
    sink.close()
    assert slow.frames == list(range(30))
    assert watcher.events == []
    # The frame that did not fit into the queue waited for the writer, within its output, which begins with its fate.
    held = max(watcher.waits, key=lambda wait: watcher.waits[wait][1] - watcher.waits[wait][0])
    begin, end = watcher.waits[held]
    assert held[:2] == ("sink", "pictures")
    assert held[2] in (8, 9)
    assert end - begin > 100_000_000
    assert watcher.outputs[held[2]][0] <= begin < end <= watcher.outputs[held[2]][1]
    assert [watcher.outputs[frame][0] for frame in range(30)] == watcher.output_ns


@pytest.mark.parametrize("draws", [False, True])
def test_a_writers_error_comes_with_the_next_send_and_with_close(draws: bool) -> None:
    gallery, writer = Gallery(), Recorder(draws=draws, fails_at=3)
    sink, _ = sink_of(writer, gallery=gallery)

    def send_many() -> None:
        for frame in range(10_000):
            gallery.keep(picture(frame))
            sink.send(packet(frame))

    with pytest.raises(SinkError, match="No space left"):
        send_many()
    with pytest.raises(SinkError, match="No space left"):
        sink.close()
    assert writer.frames == [0, 1, 2]
    assert writer.closed == [True]


def test_an_error_at_the_very_end_comes_with_close_and_the_other_writers_are_closed() -> None:
    failing, other, drawing = Recorder(fails_at=0), Recorder(), Recorder(draws=True)
    sink, _ = sink_of(failing, other, drawing, gallery=Gallery())
    sink.send(packet(0))
    with pytest.raises(SinkError, match="No space left"):
        sink.close()
    assert failing.closed == other.closed == [True]
    assert drawing.closed == [False]


def test_hurry_reaches_the_writers() -> None:
    writer = Recorder()
    sink, _ = sink_of(writer)
    sink.hurry()
    sink.close()
    assert writer.closed == [True]


def test_records_are_flushed_about_each_second_also_when_nothing_comes() -> None:
    writer = Recorder()
    sink, _ = sink_of(writer)
    sink.send(packet(0))
    for _ in range(100):
        if writer.num_flushes:
            break
        Event().wait(0.1)
    assert writer.num_flushes >= 1
    sink.close()


def test_pictures_without_a_gallery_are_refused() -> None:
    with pytest.raises(SinkError, match="put the sink on the rank of the source"):
        sink_of(Recorder(draws=True))


def test_a_gallery_is_emptied_also_where_nothing_is_drawn() -> None:
    gallery = Gallery()
    sink, _ = sink_of(Recorder(), gallery=gallery)
    for frame in range(5):
        gallery.keep(picture(frame))
        sink.send(packet(frame))
    sink.close()
    assert len(gallery) == 0
