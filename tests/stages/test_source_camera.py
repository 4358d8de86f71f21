"""Live sources: a real MJPEG server on this host that breaks and comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread, Timer

import cv2
import numpy as np
import pytest

from splitrail.pipeline.errors import SourceError
from splitrail.pipeline.observer import NullObserver
from splitrail.stages.source import SourceOptions, open_source


class MjpegServer:
    """Serves frames of rising brightness; connection i ends after `plan[i]` frames, and is refused where that is 0."""

    def __init__(self) -> None:
        self.plan: list[int] = []
        self.num_connections = 0
        self.finished = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                index = outer.num_connections
                outer.num_connections += 1
                length = outer.plan[min(index, len(outer.plan) - 1)]
                if not length:
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for frame in range(length):
                        jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), frame % 200, np.uint8))[1].tobytes()
                        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                        self.wfile.write(head + jpeg + b"\r\n")
                        if outer.finished.wait(0.005):
                            return
                except OSError:
                    pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://user:secret@127.0.0.1:{self._server.server_port}/live.mjpg"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.finished.set()
        self._server.shutdown()
        self._server.server_close()


class Events(NullObserver):
    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, int | float | str | None]]] = []

    def event(self, name: str, **facts: int | float | str | None) -> None:
        self.seen.append((name, facts))


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.close()


def test_frames_are_numbered_timed_and_end_at_max_frames(server: MjpegServer) -> None:
    server.plan = [10_000]
    source = open_source(server.url, SourceOptions(max_frames=12))
    packets = []
    while (packet := source.receive()) is not None:
        packets.append(packet)
    source.close()
    assert source.live
    assert source.num_frames == 12
    assert "secret" not in source.description
    assert [packet.frame for packet in packets] == list(range(12))
    assert packets[0].pts_ns == 0
    assert all(packet.pts_ns == packet.capture_ns - packets[0].capture_ns for packet in packets)
    assert [packet.tensors["image"].shape for packet in packets] == [(48, 64, 3)] * 12


def test_a_broken_stream_is_opened_again(server: MjpegServer) -> None:
    server.plan = [15, 0, 10_000]
    events = Events()
    source = open_source(server.url, SourceOptions(max_frames=25), events)
    packets = []
    while (packet := source.receive()) is not None:
        packets.append(packet)
    source.close()
    assert [packet.frame for packet in packets] == list(range(25))
    assert [name for name, _ in events.seen] == ["source_lost", "source_back"]
    assert "secret" not in str(events.seen)
    assert server.num_connections >= 3


def test_a_stream_that_stays_away_is_an_error(server: MjpegServer) -> None:
    server.plan = [5, 0]
    source = open_source(server.url, SourceOptions(reconnect_timeout_s=0.2))

    def play() -> None:
        for _ in range(100):
            assert source.receive() is not None

    with pytest.raises(SourceError, match=r"did not come back within 0\.2 s"):
        play()
    source.close()


def test_stop_ends_a_blocked_receive(server: MjpegServer) -> None:
    server.plan = [3, 0]
    source = open_source(server.url, SourceOptions(reconnect_timeout_s=3600))
    Timer(0.3, source.stop).start()
    begin = time.monotonic()
    num_frames = 0
    while source.receive() is not None:
        num_frames += 1
    source.close()
    assert num_frames <= 3
    assert time.monotonic() - begin < 10


def test_a_url_that_does_not_open_is_one_sentence() -> None:
    with pytest.raises(SourceError, match="cannot be opened") as raised:
        open_source("http://user:secret@127.0.0.1:9/none")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("options", [{"stride": 2}, {"loop": True}, {"rate": 5.0}])
def test_file_options_are_refused_for_a_live_source(options: dict[str, float]) -> None:
    with pytest.raises(SourceError, match=f"{next(iter(options))} is for files"):
        open_source("rtsp://127.0.0.1/x", SourceOptions(**options))  # type: ignore[arg-type]
