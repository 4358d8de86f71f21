"""Video files as sources, whole and damaged, through PyAV and through OpenCV."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from splitrail.pipeline.errors import SourceError
from splitrail.pipeline.packet import Kind, Packet
from splitrail.stages.source import Source, SourceOptions, open_source
from splitrail.stages.sources import video
from splitrail.stages.sources.opencv_video import OpenCvVideo
from splitrail.stages.sources.replay import ReplaySource

SIZE = (48, 64)
BITS = [1, 2, 4, 8, 16, 32]
"""The lower half of frame i shows i in binary, a block per bit; its upper left is noise, so that it takes room in the file."""


def write_clip(
    path: Path,
    num_frames: int = 40,
    *,
    codec: str = "libx264",
    times_ms: list[int] | None = None,
    **options: str,
) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000) if times_ms else Fraction(1, 25)
        if codec == "libx264":
            stream.options = {"g": "8", "crf": "10"}
        for index in range(num_frames):
            image = np.zeros((*SIZE, 3), np.uint8)
            for place, bit in enumerate(BITS):
                image[24:, 10 * place : 10 * place + 10] = 255 if index & bit else 0
            image[:24, :32] = rng.integers(0, 255, (24, 32, 3))
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = times_ms[index] if times_ms else index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def play(source: Source) -> list[Packet]:
    packets = []
    while (packet := source.receive()) is not None:
        packets.append(packet)
        assert len(packets) < 1000
    source.close()
    assert [packet.frame for packet in packets] == list(range(len(packets)))
    return packets


def by_opencv(path: str, options: SourceOptions | None = None) -> Source:
    video.quiet_opencv()
    return ReplaySource(OpenCvVideo(Path(path)), options or SourceOptions())


def shown(packet: Packet) -> int:
    """Which frame of the clip the picture is."""
    lower = packet.tensors["image"][28:44]
    return sum(bit for place, bit in enumerate(BITS) if lower[:, 10 * place + 2 : 10 * place + 8].mean() > 128)


def fates(packets: list[Packet]) -> str:
    return "".join("." if packet.kind is Kind.FRAME else "x" for packet in packets)


Opener = Callable[..., Source]
openers = pytest.mark.parametrize("opened", [open_source, by_opencv], ids=["pyav", "opencv"])


@openers
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_every_frame_of_a_clip_comes_once_in_order(tmp_path: Path, opened: Opener, suffix: str) -> None:
    source = opened(str(write_clip(tmp_path / f"clip.{suffix}")))
    assert source.fps == 25
    assert source.num_frames == 40
    assert not source.live
    packets = play(source)
    assert [shown(packet) for packet in packets] == list(range(40))
    assert [round(packet.pts_ns / 1e6) for packet in packets] == [40 * index for index in range(40)]
    assert packets[0].source_size == SIZE
    assert packets[0].tensors["image"].shape == (*SIZE, 3)
    assert source.name_of(3) == ""


@openers
def test_mpeg4_in_avi(tmp_path: Path, opened: Opener) -> None:
    packets = play(opened(str(write_clip(tmp_path / "clip.avi", codec="mpeg4"))))
    assert fates(packets) == "." * 40


@openers
def test_stride_max_frames_and_loop(tmp_path: Path, opened: Opener) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 10))
    source = opened(clip, SourceOptions(stride=4))
    assert source.num_frames == 3
    assert source.fps == 6.25
    assert [shown(packet) for packet in play(source)] == [0, 4, 8]
    packets = play(opened(clip, SourceOptions(stride=4, loop=True, max_frames=8)))
    assert [shown(packet) for packet in packets] == [0, 4, 8, 0, 4, 8, 0, 4]
    times = [packet.pts_ns for packet in packets]
    assert times == sorted(set(times))


@openers
def test_irregular_timestamps_lose_nothing(tmp_path: Path, opened: Opener) -> None:
    times = np.cumsum(np.random.default_rng(1).integers(20, 90, 30)).tolist()
    for suffix in ("mp4", "mkv"):
        packets = play(opened(str(write_clip(tmp_path / f"clip.{suffix}", 30, times_ms=times))))
        assert fates(packets) == "." * 30
        relative = [round(packet.pts_ns / 1e6) for packet in packets]
        assert [time - relative[0] for time in relative] == pytest.approx([time - times[0] for time in times], abs=1)


@openers
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_the_display_matrix_turns_the_picture(tmp_path: Path, opened: Opener, rotation: int) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 1)
    data = bytearray(clip.read_bytes())
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[rotation]
    # The matrix of the track header (ISO/IEC 14496-12, 8.3.2), in 16.16 fixed point.
    struct.pack_into(
        ">9i", data, data.index(b"tkhd") + 44, *(v << 16 for v in (cosine, -sine, 0, sine, cosine)), 0, 0, 0, 1 << 30
    )
    clip.write_bytes(data)
    (packet,) = play(opened(str(clip)))
    image = packet.tensors["image"]
    assert image.shape[:2] == packet.source_size == (SIZE if rotation == 180 else SIZE[::-1])
    # Frame 0 is black but for the noise, at the upper left before the turn, which is anticlockwise.
    upright = np.rot90(image, -rotation // 90)
    assert upright[:24, :32].mean() > 90
    assert upright[24:].mean() < 30


def cut(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


@openers
def test_a_cut_mp4_gives_the_frames_it_promises(tmp_path: Path, opened: Opener) -> None:
    clip = cut(write_clip(tmp_path / "clip.mp4", movflags="faststart"), 0.5)
    source = opened(str(clip))
    packets = play(source)
    assert source.num_frames == len(packets) == 40
    told = fates(packets)
    assert told[:8] == "........"
    assert told[-8:] == "xxxxxxxx"
    assert str(clip) in packets[-1].reason
    times = [packet.pts_ns for packet in packets]
    assert times[-1] > times[20] > times[10]


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4")])
def test_a_cut_file_without_frame_count_promises_by_duration(tmp_path: Path, suffix: str, codec: str) -> None:
    packets = play(open_source(str(cut(write_clip(tmp_path / f"clip.{suffix}", codec=codec), 0.5))))
    told = fates(packets)
    assert len(told) == 40
    assert told[0] == "."
    assert told[-8:] == "xxxxxxxx"


def test_damage_in_the_middle_fails_those_frames_only(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", movflags="faststart")
    with av.open(str(clip)) as container:
        spans = {packet.pts: (packet.pos, packet.size) for packet in container.demux(video=0) if packet.size}
    # The key frame 16 and what refers to it become zeros.
    position, size = spans[sorted(spans)[16]]
    data = bytearray(clip.read_bytes())
    data[position : position + size] = bytes(size)
    clip.write_bytes(data)
    packets = play(open_source(str(clip)))
    told = fates(packets)
    assert len(told) == 40
    assert told[:12] == "." * 12
    assert told[16] == "x"
    assert told[24:] == "." * 16
    assert [shown(packet) for packet in packets[24:]] == list(range(24, 40))
    assert "0.640 s" in packets[16].reason


def test_damage_in_a_matroska_fails_frames_in_their_place(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv")
    data = bytearray(clip.read_bytes())
    at = len(data) // 5
    data[at : at + 200] = np.random.default_rng(0).integers(0, 255, 200, np.uint8).tobytes()
    clip.write_bytes(data)
    packets = play(open_source(str(clip)))
    told = fates(packets)
    assert len(told) == 40
    assert 1 <= told.count("x") <= 16
    assert [shown(packet) for packet in packets[24:]] == list(range(24, 40))


def test_frames_that_an_edit_list_leaves_out_do_not_exist(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    data = bytearray(clip.read_bytes())
    at = data.index(b"elst") + 4
    version, count, duration, media_time, rate = struct.unpack_from(">IIIiI", data, at)
    assert (version, count) == (0, 1)
    struct.pack_into(">IIIiI", data, at, version, count, duration // 2, media_time, rate)
    clip.write_bytes(data)
    assert fates(play(open_source(str(clip)))) == "." * 20


@openers
def test_what_is_no_video_is_refused(tmp_path: Path, opened: Opener) -> None:
    for name, data in (("text.mp4", b"hello " * 50), ("noise.mkv", bytes(range(256)) * 8)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match=name):
            opened(str(tmp_path / name))


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv")
    clip.write_bytes(clip.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_NOTHING/KNOWN"))
    with pytest.raises(SourceError, match=r"clip\.mkv"):
        open_source(str(clip))


def test_a_video_without_a_decodable_frame_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", movflags="faststart")
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    clip.write_bytes(data)
    with pytest.raises(SourceError, match="no frame of the video"):
        open_source(str(clip))


def test_an_empty_file_and_one_with_sound_only_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match="empty file"):
        open_source(str(tmp_path / "empty.mp4"))
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="no video in it"):
        open_source(str(tmp_path / "sound.wav"))


def test_without_pyav_opencv_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 5))
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    source = open_source(clip)
    assert "OpenCV" in source.description
    assert len(play(source)) == 5


def test_pictures_of_both_readers_are_the_same(tmp_path: Path) -> None:
    clip = str(write_clip(tmp_path / "clip.mp4", 5))
    for one, other in zip(play(open_source(clip)), play(by_opencv(clip)), strict=True):
        assert cv2.norm(one.tensors["image"], other.tensors["image"], cv2.NORM_INF) <= 3
