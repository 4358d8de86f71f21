"""Folders, globs, lists and single images as sources."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Timer

import cv2
import numpy as np
import pytest

from splitrail.pipeline.clock import now_ns
from splitrail.pipeline.errors import SourceError
from splitrail.pipeline.packet import Kind, Packet
from splitrail.stages import source as source_module
from splitrail.stages.source import Source, SourceOptions, open_source, register_source


def write_image(path: Path, value: int, size: tuple[int, int] = (8, 12)) -> Path:
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def play(source: Source) -> list[Packet]:
    packets = []
    while (packet := source.receive()) is not None:
        packets.append(packet)
        assert len(packets) < 1000
    source.close()
    return packets


def values(packets: list[Packet]) -> list[int]:
    return [int(packet.tensors["image"].flat[0]) for packet in packets]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for value in (1, 2, 10, 11, 20):
        write_image(tmp_path / f"im{value}.png", value)
    (tmp_path / "notes.md").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    return tmp_path


def test_folder_is_read_in_natural_order_with_names(folder: Path) -> None:
    source = open_source(str(folder))
    assert (source.num_frames, source.live, source.fps) == (5, False, 25.0)
    packets = play(source)
    assert values(packets) == [1, 2, 10, 11, 20]
    assert [packet.frame for packet in packets] == [0, 1, 2, 3, 4]
    assert [packet.pts_ns for packet in packets] == [0, 40_000_000, 80_000_000, 120_000_000, 160_000_000]
    assert packets[0].source_size == (8, 12)
    assert packets[0].tensors["image"].dtype == np.uint8
    assert [source.name_of(frame) for frame in range(5)] == [f"im{n}.png" for n in (1, 2, 10, 11, 20)]


def test_capture_times_grow(folder: Path) -> None:
    times = [packet.capture_ns for packet in play(open_source(str(folder)))]
    assert times == sorted(times)
    assert times[0] > 0


def test_glob_and_single_image(folder: Path) -> None:
    assert values(play(open_source(str(folder / "im1*.png")))) == [1, 10, 11]
    assert values(play(open_source(str(folder / "im20.png")))) == [20]


def test_list_is_relative_to_itself_and_keeps_its_order(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("# chosen\nim20.png\n\n./im1.png\nmissing.png\n")
    packets = play(open_source(str(listing)))
    assert [packet.kind for packet in packets] == [Kind.FRAME, Kind.FRAME, Kind.FAILED]
    assert values(packets[:2]) == [20, 1]
    assert "missing.png" in packets[2].reason
    assert "No such file" in packets[2].reason


def test_unreadable_image_is_a_failed_frame(folder: Path) -> None:
    (folder / "im3.png").write_bytes(b"not a png")
    (folder / "im4.png").write_bytes(b"")
    packets = play(open_source(str(folder)))
    assert [packet.kind for packet in packets] == [
        Kind.FRAME,
        Kind.FRAME,
        Kind.FAILED,
        Kind.FAILED,
        Kind.FRAME,
        Kind.FRAME,
        Kind.FRAME,
    ]
    assert packets[2].tensors == {}
    assert packets[2].source_size == (8, 12)


def test_any_depth_becomes_8_bit_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1-grey.png"), np.full((4, 5), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "2-deep.png"), np.full((4, 5, 3), 256 * 33, np.uint16))
    cv2.imwrite(str(tmp_path / "3-alpha.png"), np.full((4, 5, 4), 50, np.uint8))
    packets = play(open_source(str(tmp_path)))
    assert [packet.tensors["image"].shape for packet in packets] == [(4, 5, 3)] * 3
    assert {packet.tensors["image"].dtype for packet in packets} == {np.dtype(np.uint8)}
    assert values(packets) == [77, 33, 50]


def test_exif_orientation_turns_the_image(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((16, 32, 3), np.uint8))[1].tobytes()
    # An EXIF segment whose only entry is orientation 6: turn by 90 degrees.
    tiff = b"MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    (packet,) = play(open_source(str(tmp_path)))
    assert packet.source_size == (32, 16)


def test_stride_max_frames_and_loop(folder: Path) -> None:
    source = open_source(str(folder), SourceOptions(stride=2))
    assert source.num_frames == 3
    assert source.fps == 12.5
    packets = play(source)
    assert values(packets) == [1, 10, 20]
    assert [packet.pts_ns for packet in packets] == [0, 80_000_000, 160_000_000]
    assert [source.name_of(frame) for frame in range(3)] == ["im1.png", "im10.png", "im20.png"]

    source = open_source(str(folder), SourceOptions(stride=2, loop=True, max_frames=7))
    assert source.num_frames == 7
    packets = play(source)
    assert values(packets) == [1, 10, 20, 1, 10, 20, 1]
    assert [packet.frame for packet in packets] == list(range(7))
    assert [packet.pts_ns // 1_000_000 for packet in packets] == [0, 80, 160, 240, 320, 400, 480]
    assert source.name_of(4) == "im10.png"

    assert open_source(str(folder), SourceOptions(loop=True)).num_frames is None
    assert len(play(open_source(str(folder), SourceOptions(max_frames=2)))) == 2


def test_rate_paces_and_makes_the_source_live(folder: Path) -> None:
    source = open_source(str(folder), SourceOptions(rate=50))
    assert source.live
    assert source.fps == 50
    begin_ns = now_ns()
    packets = play(source)
    assert packets[-1].capture_ns - begin_ns >= 4 * 20_000_000
    assert packets[1].pts_ns == 20_000_000


def test_stop_ends_a_source_that_waits_for_its_pace(folder: Path) -> None:
    source = open_source(str(folder), SourceOptions(rate=0.01))
    assert source.receive() is not None
    begin = time.monotonic()
    Timer(0.05, source.stop).start()
    assert source.receive() is None
    assert time.monotonic() - begin < 10
    assert source.receive() is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("nowhere.mp4", "does not exist"),
        ("nowhere/*.jpg", "no image matches"),
        ("0", "no camera /dev/video0"),
        ("/dev/video97", "no camera /dev/video97"),
    ],
)
def test_what_is_not_there_is_one_sentence(text: str, says: str) -> None:
    if text == "0" and Path("/dev/video0").exists():
        text, says = "98", "no camera /dev/video98"
    with pytest.raises(SourceError, match=says) as raised:
        open_source(text)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)


def test_folders_and_lists_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no image"):
        open_source(str(tmp_path))
    listing = tmp_path / "list.txt"
    listing.write_text("# nothing\n")
    with pytest.raises(SourceError, match="names no image"):
        open_source(str(listing))
    listing.write_text("a.png\nclip.mp4\n")
    with pytest.raises(SourceError, match=r"line 2 of .*clip\.mp4"):
        open_source(str(listing))
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match="cannot be read as text"):
        open_source(str(listing))


@pytest.mark.parametrize(
    "options",
    [{"stride": 0}, {"max_frames": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"reconnect_timeout_s": -1.0}],
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SourceError, match=next(iter(options))):
        SourceOptions(**options)  # type: ignore[arg-type]


def test_a_registered_prefix_gets_its_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_openers", {})
    seen = []

    def opener(arguments: str, options: SourceOptions) -> Source:
        seen.append((arguments, options.stride))
        return open_source(str(folder))

    register_source("made", opener)
    assert len(play(open_source("made:seed=1", SourceOptions(stride=3)))) == 5
    open_source("made").close()
    assert seen == [("seed=1", 3), ("", 1)]
