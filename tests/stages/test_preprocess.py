"""From a source image to `pixels`."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitrail.pipeline.errors import ConfigError, FrameError
from splitrail.pipeline.packet import Packet
from splitrail.pipeline.stage import BindableStage
from splitrail.stages.bundle import PreProcess
from splitrail.stages.gallery import Gallery
from splitrail.stages.preprocess import Preprocess, dynamic_size, letterbox_size, rcnn_size


def packet_of(image: np.ndarray, frame: int = 0) -> Packet:
    return Packet(frame, 1, 2, image.shape[:2], tensors={"image": image})


def gradient(height: int, width: int) -> np.ndarray:
    """Blue grows to the right, green downwards, red is 200."""
    image = np.full((height, width, 3), 200, np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[np.newaxis, :]
    image[..., 1] = np.linspace(0, 255, height)[:, np.newaxis]
    return image


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((427, 640), (800, 1199)),
        ((333, 500), (800, 1201)),
        ((800, 800), (800, 800)),
        ((1080, 1920), (750, 1333)),
        ((432, 768), (750, 1333)),
        ((360, 640), (750, 1333)),
        ((1000, 300), (1333, 400)),
    ],
)
def test_dynamic_size_has_the_values_of_the_reference(source: tuple[int, int], expected: tuple[int, int]) -> None:
    assert dynamic_size(source, 800, 1333) == expected


@settings(deadline=None)
@given(st.integers(20, 3000), st.integers(20, 3000))
def test_dynamic_size_is_that_of_transformers(height: int, width: int) -> None:
    from splitrail.models.operators import load_operators

    load_operators()  # transformers imports torchvision where it is installed
    from transformers.image_transforms import get_size_with_aspect_ratio

    reference = get_size_with_aspect_ratio((height, width), 800, 1333)
    ours = dynamic_size((height, width), 800, 1333)
    assert max(ours) <= 1333
    # The reference leaves an image whose short side fits already as long as it is.
    assert ours == tuple(min(side, 1333) for side in reference)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(8, 900), st.integers(8, 900))
def test_letterbox_fits_touches_and_keeps_the_aspect(height: int, width: int, out_h: int, out_w: int) -> None:
    valid = letterbox_size((height, width), (out_h, out_w))
    assert 1 <= valid[0] <= out_h
    assert 1 <= valid[1] <= out_w
    assert valid[0] == out_h or valid[1] == out_w
    scale = min(out_h / height, out_w / width)
    assert abs(valid[0] - height * scale) <= 1
    assert abs(valid[1] - width * scale) <= 1


def test_fixed_size_letterboxes_top_left_in_rgb_with_zero_padding() -> None:
    stage = Preprocess(PreProcess(size=(64, 96)))
    packet = packet_of(gradient(60, 40))
    stage.process(packet)
    pixels = packet.tensors["pixels"]
    assert list(packet.tensors) == ["pixels"]
    assert pixels.shape == (1, 64, 96, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert packet.valid_size == (64, 43)
    assert packet.source_size == (60, 40)
    assert not pixels[0, :, 43:].any()
    valid = pixels[0, :, :43]
    assert (valid[..., 0] == 200).all()
    assert valid[:, 0, 2].max() < 10
    assert valid[:, -1, 2].min() > 245
    assert valid[0, :, 1].max() < 10
    assert valid[-1, :, 1].min() > 245


def test_dynamic_size_has_no_padding() -> None:
    stage = Preprocess(PreProcess(short_side=64, max_long_side=100))
    assert stage.output_specs() is None
    packet = packet_of(gradient(48, 64))
    stage.process(packet)
    assert packet.tensors["pixels"].shape == (1, 64, 85, 3)
    assert packet.valid_size == (64, 85)


def test_pixels_go_into_the_target_and_old_padding_is_cleared() -> None:
    stage = Preprocess(PreProcess(size=(32, 64)))
    assert isinstance(stage, BindableStage)
    (spec,) = stage.output_specs() or ()
    assert (spec.name, spec.dtype, spec.shape) == ("pixels", "uint8", (1, 32, 64, 3))
    buffer = np.full(512 + 32 * 64 * 3, 99, np.uint8)
    target = buffer[512:].reshape(1, 32, 64, 3)
    packet = packet_of(gradient(32, 32))
    packet.targets = {"pixels": target}
    stage.process(packet)
    assert packet.tensors["pixels"] is target
    assert packet.valid_size == (32, 32)
    assert not target[0, :, 32:].any()
    assert (target[0, :, :32, 0] == 200).all()
    plain = packet_of(gradient(32, 32))
    stage.process(plain)
    assert np.array_equal(plain.tensors["pixels"], target)
    assert (buffer[:512] == 99).all()


def test_same_size_is_the_image_itself_in_rgb() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    packet = packet_of(image)
    Preprocess(PreProcess(size=(24, 32))).process(packet)
    assert np.array_equal(packet.tensors["pixels"][0], image[..., ::-1])


def test_shrinking_much_averages_every_source_pixel() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::8, ::8] = 255
    packet = packet_of(image)
    Preprocess(PreProcess(size=(8, 8))).process(packet)
    assert set(np.unique(packet.tensors["pixels"])) <= {3, 4}


def test_resampling_is_close_to_the_reference_interpolation() -> None:
    from PIL import Image as Pillow

    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 2)
    for size in [(240, 320), (90, 120), (60, 80), (36, 48)]:
        packet = packet_of(image)
        Preprocess(PreProcess(size=size)).process(packet)
        reference = np.asarray(
            Pillow.fromarray(image[..., ::-1]).resize(size[::-1], Pillow.Resampling.BILINEAR), np.int16
        )
        assert np.abs(packet.tensors["pixels"][0] - reference).mean() < 1.5


def test_the_source_image_is_kept_unchanged_for_the_sink_and_the_buffer_released() -> None:
    gallery = Gallery()
    released = []
    buffer = gradient(48, 64)
    before = buffer.copy()
    packet = packet_of(buffer, frame=7)
    packet.held = lambda: released.append(True)
    Preprocess(PreProcess(size=(24, 32)), gallery=gallery).process(packet)
    assert released == [True]
    buffer[:] = 0
    kept = gallery.take(7)
    assert kept is not None
    assert np.array_equal(kept, before)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_fails_the_frame(image: np.ndarray) -> None:
    packet = Packet(3, 0, 0, (4, 4), tensors={"image": image})
    with pytest.raises(FrameError, match="frame 3"):
        Preprocess(PreProcess(size=(8, 8))).process(packet)


def test_a_missing_image_is_a_mistake_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"needs 'image' and gets \['pixels'\]"):
        Preprocess(PreProcess()).process(Packet(0, 0, 0, (4, 4), tensors={"pixels": np.zeros(1, np.uint8)}))


@settings(deadline=None)
@given(st.integers(20, 2000), st.integers(20, 2000), st.sampled_from([(800, 1333), (96, 160), (333, 500)]))
def test_rcnn_size_is_torchvisions(height: int, width: int, sides: tuple[int, int]) -> None:
    import torch

    from splitrail.models.operators import load_operators

    load_operators()
    from torchvision.models.detection.transform import _resize_image_and_masks

    # On the meta device sizes are computed and pixels are not.
    resized, _ = _resize_image_and_masks(torch.empty(3, height, width, device="meta"), *sides)
    assert rcnn_size((height, width), *sides) == tuple(resized.shape[-2:])


@pytest.mark.parametrize("source", [(43, 77), (200, 150), (96, 96)])
def test_rcnn_pixels_are_torchvisions(source: tuple[int, int]) -> None:
    """Its transform normalises, resizes in float and pads; ours resizes in float and pads, and the graph normalises."""
    import torch

    from splitrail.models.operators import load_operators
    from splitrail.models.pixels import IMAGE_MEAN, IMAGE_STD, normalise

    load_operators()
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    image = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    transform = GeneralizedRCNNTransform(96, 160, list(IMAGE_MEAN), list(IMAGE_STD)).eval()
    rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255
    reference = transform([rgb])[0]
    packet = Packet(0, 0, 0, source)
    packet.tensors = {"image": image}
    stage = Preprocess(PreProcess(kind="rcnn", short_side=96, max_long_side=160))
    stage.process(packet)
    assert packet.valid_size == reference.image_sizes[0]
    pixels = packet.tensors["pixels"]
    assert pixels.dtype == np.float32
    ours = normalise(torch.from_numpy(pixels), torch.tensor([packet.valid_size]))
    assert ours.shape == reference.tensors.shape
    torch.testing.assert_close(ours, reference.tensors, atol=2e-4, rtol=0)


def test_rcnn_letterbox_is_padded_to_multiples_of_32() -> None:
    spec = PreProcess(kind="rcnn", size=(80, 107))
    assert spec.pixel_size == (96, 128)
    packet = Packet(0, 0, 0, (60, 107))
    packet.tensors = {"image": np.full((60, 107, 3), 200, np.uint8)}
    stage = Preprocess(spec)
    specs = stage.output_specs()
    assert specs is not None
    assert (specs[0].shape, specs[0].dtype) == ((1, 96, 128, 3), "float32")
    packet.targets = {"pixels": np.full((1, 96, 128, 3), 7, np.float32)}
    target = packet.targets["pixels"]
    stage.process(packet)
    assert packet.tensors["pixels"] is target
    assert packet.valid_size == (60, 107)
    assert (target[0, :60, :107] == 200).all()
    assert not target[0, 60:].any()
    assert not target[0, :, 107:].any()
