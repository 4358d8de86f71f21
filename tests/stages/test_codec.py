"""Wire types: what travels is near enough, and nothing odd breaks them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from splitrail.pipeline.errors import FrameError, MessageError
from splitrail.pipeline.packet import Packet, TensorSpec
from splitrail.stages.bundle import WIRE_SUFFIXES
from splitrail.stages.codec import Decode, Encode, decode, encode, wire_specs

WIRES = list(WIRE_SUFFIXES)
finite = st.floats(-(2.0**99), 2.0**99, width=32)
tensors = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=finite)


def packet_of(**tensors: np.ndarray) -> Packet:
    return Packet(frame=7, capture_ns=0, pts_ns=0, source_size=(4, 4), tensors=tensors)


@given(tensors)
def test_uint8_is_off_by_half_a_step_at_most(x: np.ndarray) -> None:
    parts = encode(x, "uint8")
    scale = parts["_scale"][0]
    low, high = min(x.min(), 0), max(x.max(), 0)
    assert scale > 0
    assert 0 <= parts["_zero_point"][0] <= 255
    back = decode(parts, "uint8")
    assert back.dtype == np.float32
    assert back.shape == x.shape
    # Below the smallest normal scale everything becomes 0.
    bound = float(scale) / 2 * (1 + 1e-4) if high - low > 3.1e-36 else 3.1e-36
    assert np.abs(back.astype(np.float64) - x).max() <= bound


@given(finite, hnp.array_shapes(max_dims=4, max_side=6))
def test_uint8_keeps_a_constant_tensor(value: float, shape: tuple[int, ...]) -> None:
    back = decode(encode(np.full(shape, value, np.float32), "uint8"), "uint8")
    np.testing.assert_allclose(back, np.float32(value), rtol=1e-6, atol=3.1e-36)


@given(tensors)
def test_uint8_keeps_zero_exactly(x: np.ndarray) -> None:
    x.reshape(-1)[0] = 0
    assert decode(encode(x, "uint8"), "uint8").reshape(-1)[0] == 0


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, -3e-38])
def test_uint8_of_almost_nothing_is_almost_nothing(value: float) -> None:
    back = decode(encode(np.full((2, 3), value, np.float32), "uint8"), "uint8")
    assert np.abs(back).max() <= 3.1e-36
    assert np.isfinite(back).all()


def test_uint8_uses_all_codes_and_never_wraps() -> None:
    x = np.linspace(-1.27, 1.28, 4096, dtype=np.float32)
    codes = encode(x, "uint8")["_uint8"]
    assert set(codes.tolist()) == set(range(256))
    assert (np.diff(codes.astype(int)) >= 0).all()


def test_uint8_by_hand() -> None:
    parts = encode(np.array([-1.0, 0.0, 1.0, 4.1], np.float32), "uint8")
    np.testing.assert_allclose(parts["_scale"], [0.02], rtol=1e-6)
    assert parts["_zero_point"].tolist() == [50]
    assert parts["_uint8"].tolist() == [0, 50, 100, 255]


def test_uint8_does_the_same_in_blocks_as_at_once() -> None:
    x = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    parts = encode(x, "uint8")
    inverse = np.float32(1) / parts["_scale"]
    expected = np.clip(np.rint(x * inverse) + np.float32(parts["_zero_point"][0]), 0, 255).astype(np.uint8)
    assert np.array_equal(parts["_uint8"], expected)


@given(tensors)
def test_fp16_rounds_and_clips(x: np.ndarray) -> None:
    back = decode(encode(x, "fp16"), "fp16")
    assert np.array_equal(back, np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32))


@given(tensors)
def test_fp32_is_the_tensor_itself(x: np.ndarray) -> None:
    parts = encode(x, "fp32")
    assert parts[""] is x
    assert decode(parts, "fp32") is x


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_the_frame(wire: str, value: float) -> None:
    x = np.zeros((3, 5), np.float32)
    x[1, 2] = value
    with pytest.raises(FrameError, match="not finite"):
        encode(x, wire)


def test_a_range_beyond_float32_fails_the_frame() -> None:
    with pytest.raises(FrameError, match="too wide"):
        encode(np.array([-3e38, 3e38], np.float32), "uint8")


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0, -1.0])
def test_a_scale_that_cannot_be_fails_the_frame(scale: float) -> None:
    parts = encode(np.ones(3, np.float32), "uint8") | {"_scale": np.array([scale], np.float32)}
    with pytest.raises(FrameError, match="scale"):
        decode(parts, "uint8")


@pytest.mark.parametrize("wire", WIRES)
def test_encode_writes_into_the_arrays_it_is_given(wire: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32) * 1e5
    out = {spec.name[1:]: np.zeros(spec.shape, spec.dtype) for spec in wire_specs("x", x.shape, wire)}
    parts = encode(x, wire, out)
    assert list(parts) == list(WIRE_SUFFIXES[wire])
    fresh = encode(x, wire)
    for suffix, array in parts.items():
        assert array is out[suffix]
        assert array.dtype == fresh[suffix].dtype
        assert np.array_equal(array, fresh[suffix])


@pytest.mark.parametrize("wire", WIRES)
def test_stages_encode_and_decode_a_packet(wire: str) -> None:
    rng = np.random.default_rng(0)
    features, memory = (rng.standard_normal((1, 4, 3, 5)).astype(np.float32) for _ in range(2))
    packet = packet_of(features=features, memory=memory, extra=np.zeros(3, np.uint8))
    stage = Encode(["features", "memory"], wire, {"features": (1, 4, 3, 5), "memory": (1, 4, 3, 5)})
    stage.process(packet)
    specs = [TensorSpec(name, array.dtype.name, array.shape) for name, array in packet.tensors.items()]
    assert tuple(specs) == stage.output_specs()
    packet.tensors["extra"] = np.ones(2, np.uint8)
    Decode(["features", "memory"], wire).process(packet)
    assert set(packet.tensors) == {"features", "memory", "extra"}
    tolerance = {"fp32": 0, "fp16": 2e-3, "uint8": 2e-2}[wire]
    np.testing.assert_allclose(packet.tensors["features"], features, atol=tolerance)
    np.testing.assert_allclose(packet.tensors["memory"], memory, atol=tolerance)


def test_encode_writes_into_the_send_buffer() -> None:
    stage = Encode(["x"], "uint8", {"x": (2, 3)})
    targets = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in stage.output_specs() or ()}
    packet = packet_of(x=np.arange(6, dtype=np.float32).reshape(2, 3))
    packet.targets = targets
    stage.process(packet)
    assert packet.tensors.keys() == targets.keys()
    assert all(packet.tensors[name] is targets[name] for name in targets)
    assert targets["x_uint8"].max() == 255


def test_shapes_that_vary_have_no_specs() -> None:
    assert Encode(["x"], "fp16").output_specs() is None


@pytest.mark.parametrize(("wire", "released"), [("fp32", 0), ("fp16", 1), ("uint8", 1)])
def test_decode_gives_the_receive_buffer_back_once_nothing_is_left_in_it(wire: str, released: int) -> None:
    releases: list[int] = []
    packet = packet_of(**{f"x{suffix}": a for suffix, a in encode(np.ones((2, 3), np.float32), wire).items()})
    packet.held = lambda: releases.append(1)
    Decode(["x"], wire).process(packet)
    assert len(releases) == released


def test_a_missing_or_wrong_tensor_is_named() -> None:
    with pytest.raises(MessageError, match=r"frame 7: decode reads tensor \[x_scale\]"):
        Decode(["x"], "uint8").process(packet_of(x_uint8=np.zeros(3, np.uint8)))
    with pytest.raises(MessageError, match=r"\[x_fp16\] as float16 and it came as float32"):
        Decode(["x"], "fp16").process(packet_of(x_fp16=np.zeros(3, np.float32)))
    with pytest.raises(MessageError, match="no tensor"):
        Encode(["x"], "fp16").process(packet_of())
