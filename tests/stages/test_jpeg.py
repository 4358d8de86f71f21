"""Images as JPEG on the wire."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from splitrail.pipeline.errors import ConfigError, FrameError
from splitrail.pipeline.packet import Packet
from splitrail.stages.gallery import Gallery
from splitrail.stages.jpeg import JpegDecode, JpegEncode, JpegTensor


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """Red on the left, blue on the right, BGR."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)
    image[..., 2] = np.linspace(255, 0, width)
    return image


@pytest.mark.parametrize("tensor", ["image", "pixels"])
def test_there_and_back_keeps_colours(tensor: JpegTensor) -> None:
    array = smooth() if tensor == "image" else smooth()[np.newaxis, ..., ::-1].copy()
    packet = Packet(0, 0, 0, (48, 64), tensors={tensor: array})
    JpegEncode(95, tensor).process(packet)
    jpeg = packet.tensors["jpeg"]
    assert list(packet.tensors) == ["jpeg"]
    assert jpeg.ndim == 1
    assert jpeg.dtype == np.uint8
    assert jpeg.size < array.size / 4
    # On the wire it is an ordinary JPEG of the right colours.
    assert np.abs(cv2.imdecode(jpeg, cv2.IMREAD_COLOR).astype(int) - smooth()).mean() < 4
    JpegDecode(tensor).process(packet)
    assert list(packet.tensors) == [tensor]
    back = packet.tensors[tensor]
    assert back.shape == array.shape
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    assert np.abs(back.astype(int) - array).mean() < 4


def test_lower_quality_takes_fewer_bytes() -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    sizes = []
    for quality in (30, 75, 95):
        packet = Packet(0, 0, 0, (48, 64), tensors={"image": noisy})
        JpegEncode(quality).process(packet)
        sizes.append(packet.tensors["jpeg"].size)
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_what_cannot_be_decoded_fails_the_frame(damage: str) -> None:
    packet = Packet(5, 0, 0, (48, 64), tensors={"image": smooth()})
    JpegEncode().process(packet)
    jpeg = packet.tensors["jpeg"]
    packet.tensors["jpeg"] = {
        "cut": jpeg[: jpeg.size // 2],
        "noise": np.concatenate([np.zeros(50, np.uint8), jpeg[-2:]]),
        "empty": jpeg[:0],
    }[damage]
    with pytest.raises(FrameError, match="frame 5 are not a complete JPEG"):
        JpegDecode().process(packet)


def test_an_image_of_another_size_than_the_source_fails_the_frame() -> None:
    packet = Packet(0, 0, 0, (48, 64), tensors={"image": smooth(24, 32)})
    JpegEncode().process(packet)
    with pytest.raises(FrameError, match="its source"):
        JpegDecode().process(packet)


def test_missing_tensors_are_named_and_quality_is_checked() -> None:
    with pytest.raises(ConfigError, match="'image'"):
        JpegEncode().process(Packet(0, 0, 0, (1, 1)))
    with pytest.raises(ConfigError, match="'jpeg'"):
        JpegDecode().process(Packet(0, 0, 0, (1, 1)))
    with pytest.raises(ConfigError, match="quality is 0"):
        JpegEncode(0)


def test_the_image_is_kept_for_the_sink_and_buffers_are_released() -> None:
    gallery, released = Gallery(), []
    image = smooth()
    packet = Packet(2, 0, 0, (48, 64), tensors={"image": image})
    packet.held = lambda: released.append("encode")
    JpegEncode(gallery=gallery).process(packet)
    image[:] = 0
    kept = gallery.take(2)
    assert kept is not None
    assert np.array_equal(kept, smooth())
    packet.held = lambda: released.append("decode")
    JpegDecode().process(packet)
    assert released == ["encode", "decode"]


def test_float_pixels_of_an_rcnn_are_rounded_and_come_back_as_floats() -> None:
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 32, 64, 3)).astype(np.float32)
    results = []
    for array, dtype in ((pixels, "float32"), (np.rint(pixels).astype(np.uint8), "uint8")):
        packet = Packet(0, 0, 0, (32, 64))
        packet.tensors = {"pixels": array}
        JpegEncode(95, "pixels").process(packet)
        JpegDecode("pixels", dtype).process(packet)
        results.append(packet.tensors["pixels"])
    assert [result.dtype for result in results] == [np.float32, np.uint8]
    np.testing.assert_array_equal(*results)
