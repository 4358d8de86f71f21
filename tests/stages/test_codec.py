"""Wire types: what travels is near enough, and nothing odd breaks them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from splitrail.pipeline.errors import ConfigError, FrameError, MessageError
from splitrail.pipeline.message import layout
from splitrail.pipeline.packet import Packet, TensorSpec
from splitrail.stages import entropy
from splitrail.stages.codec import Decode, Encode, decode, encode, wire_specs
from splitrail.stages.packing import pack, unpack
from splitrail.stages.wire import WIRES, WireForm

# The machine that tests may be busy with other things.
settings.register_profile("codec", deadline=None)
settings.load_profile("codec")

AFFINE = [wire for wire in WIRES if not WireForm.of(wire).is_float]
finite = st.floats(-(2.0**99), 2.0**99, width=32)
tensors = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=6), elements=finite)


def packet_of(**tensors: np.ndarray) -> Packet:
    return Packet(frame=7, capture_ns=0, pts_ns=0, source_size=(4, 4), tensors=tensors)


@given(st.sampled_from(AFFINE), tensors)
def test_an_affine_form_is_off_by_half_a_step_at_most(wire: str, x: np.ndarray) -> None:
    form = WireForm.of(wire)
    parts = encode(x, wire)
    assert list(parts) == list(form.suffixes)
    back = decode(parts, wire)
    assert back.dtype == np.float32
    assert back.shape == x.shape
    groups = [np.s_[:, channel] for channel in range(x.shape[1])] if form.per_channel and x.ndim > 1 else [np.s_[...]]
    assert parts["_scale"].shape == parts["_zero_point"].shape == (len(groups),)
    for group, scale, zero_point in zip(groups, parts["_scale"], parts["_zero_point"], strict=True):
        low, high = min(x[group].min(), 0), max(x[group].max(), 0)
        assert scale > 0
        assert 0 <= zero_point <= form.max_code
        # Below the smallest normal scale everything becomes 0.
        bound = float(scale) / 2 * (1 + 1e-4) if high - low > 3.1e-36 else 3.1e-36
        assert np.abs(back[group].astype(np.float64) - x[group]).max() <= bound


@given(st.sampled_from(AFFINE), finite, hnp.array_shapes(max_dims=4, max_side=6))
def test_a_constant_tensor_is_kept(wire: str, value: float, shape: tuple[int, ...]) -> None:
    back = decode(encode(np.full(shape, value, np.float32), wire), wire)
    np.testing.assert_allclose(back, np.float32(value), rtol=1e-6, atol=3.1e-36)


@given(st.sampled_from(AFFINE), tensors)
def test_zero_is_kept_exactly(wire: str, x: np.ndarray) -> None:
    x.reshape(-1)[0] = 0
    assert decode(encode(x, wire), wire).reshape(-1)[0] == 0


@given(tensors)
def test_a_range_far_from_zero_does_not_collapse(x: np.ndarray) -> None:
    # Features that are all positive, or all negative: the range is widened to 0 and the values stay within half a step.
    for wire in ("uint4", "uint8"):
        far = np.float32(1000) + np.tanh(x)
        for tensor in (far, -far):
            parts = encode(tensor, wire)
            assert np.abs(decode(parts, wire) - tensor).max() <= parts["_scale"][0] / 2 * (1 + 1e-4)
            assert parts["_scale"][0] == pytest.approx(np.abs(tensor).max() / WireForm.of(wire).max_code, rel=1e-5)


@pytest.mark.parametrize("bits", [4, 6, 8])
@given(st.data())
def test_packing_is_exact_and_takes_the_bits_it_says(bits: int, data: st.DataObject) -> None:
    codes = data.draw(hnp.arrays(np.uint8, st.integers(0, 70), elements=st.integers(0, 2**bits - 1)))
    packed = pack(codes, bits)
    assert packed.size == -(-codes.size * bits // 8) == WireForm.of(f"uint{bits}").num_code_bytes(codes.size)
    assert np.array_equal(unpack(packed, bits, codes.size), codes)
    # Every code in its own bits, lowest first: what np.packbits makes of the same bits.
    bits_of = np.unpackbits(codes[:, np.newaxis], axis=1, bitorder="little")[:, :bits]
    assert np.array_equal(packed, np.packbits(bits_of.reshape(-1), bitorder="little"))


@pytest.mark.parametrize("wire", WIRES)
def test_the_payload_is_what_the_form_says(wire: str) -> None:
    form = WireForm.of(wire)
    for shape in ((1, 3, 5, 7), (1, 256, 15, 20), (2, 6, 4, 4), (1, 8, 1, 1)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        parts = encode(x, wire)
        num_channels = shape[1] if form.per_channel else 1
        codes = parts[form.suffixes[0]]
        exact = -(-x.size * form.bits // 8)
        assert codes.nbytes <= form.num_code_bytes(x.size)
        if not form.is_compressed:
            assert codes.nbytes == exact
        if not form.is_float:
            assert (parts["_scale"].nbytes, parts["_zero_point"].nbytes) == (4 * num_channels, num_channels)
        specs = [TensorSpec(suffix, array.dtype.name, array.shape) for suffix, array in parts.items()]
        assert layout(specs)[1] <= form.max_bytes(x.size, shape[1], 1)
        described = wire_specs("", shape, wire)
        assert [(spec.name, spec.dtype) for spec in described] == [(spec.name, spec.dtype) for spec in specs]
        for spec, found in zip(described, specs, strict=True):
            assert spec.shape in (found.shape, (None,))


def test_channels_of_different_ranges_gain_from_their_own_scales() -> None:
    x = np.random.default_rng(0).standard_normal((1, 8, 10, 10)).astype(np.float32)
    x *= np.logspace(-3, 1, 8, dtype=np.float32)[:, np.newaxis, np.newaxis]
    for bits in (8, 6, 4):
        errors = [
            np.abs(decode(encode(x, wire), wire) - x)[0, 0].max() for wire in (f"uint{bits}", f"uint{bits}-channel")
        ]
        assert errors[1] < 1.2 * errors[0] / (2**bits - 1)


@pytest.mark.parametrize("base", ["uint8", "uint8-channel", "uint6", "uint4-channel"])
def test_compression_loses_nothing_and_shrinks_what_repeats(base: str) -> None:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((1, 64, 20, 30)), 0).astype(np.float32)
    plain, small = encode(x, base), encode(x, f"{base}+zstd")
    assert decode(plain, base).tobytes() == decode(small, f"{base}+zstd").tobytes()
    assert next(iter(small.values())).nbytes < 0.9 * next(iter(plain.values())).nbytes
    noise = rng.integers(-127, 128, (1, 64, 20, 30)).astype(np.float32)
    assert encode(noise, "uint8+zstd")["_uint8_zstd"].size <= WireForm.of("uint8+zstd").num_code_bytes(noise.size)


def test_what_was_compressed_and_changed_fails_the_frame() -> None:
    parts = encode(np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5), "uint8+zstd")
    for changed in (
        {"_uint8_zstd": parts["_uint8_zstd"][:-3]},
        {"_uint8_zstd": np.zeros(9, np.uint8)},
        {"_shape": np.array([1, 3, 4, 6], np.int32)},
        {"_shape": np.array([1, -3, -4, 5], np.int32)},
    ):
        with pytest.raises(FrameError, match=r"compressed tensor|came with the shape"):
            decode(parts | changed, "uint8+zstd")


def test_packed_codes_that_do_not_fit_their_shape_fail_the_frame() -> None:
    parts = encode(np.ones((1, 2, 3, 3), np.float32), "uint6-channel")
    with pytest.raises(FrameError, match="came with 14 bytes"):
        decode(parts | {"_shape": np.array([1, 2, 3, 4], np.int32)}, "uint6-channel")
    with pytest.raises(FrameError, match="1 scales and 2 zero points where it has 2"):
        decode(parts | {"_scale": np.ones(1, np.float32)}, "uint6-channel")


def test_without_zstandard_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    entropy._context.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"pip install 'splitrail\[entropy\]'"):
        Encode(["x"], "uint4+zstd")
    with pytest.raises(ConfigError, match="zstandard"):
        Decode(["x"], "uint8+zstd")
    Encode(["x"], "uint4")
    monkeypatch.undo()
    entropy._context.cache_clear()


def test_a_graphs_uint8_is_compressed_as_it_is() -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 5)).astype(np.float32)
    packet = packet_of(**{f"x{suffix}": array for suffix, array in encode(x, "uint8").items()})
    Encode(["x"], "uint8+zstd", source="uint8").process(packet)
    expected = encode(x, "uint8+zstd")
    assert {name: array.tobytes() for name, array in packet.tensors.items()} == {
        f"x{suffix}": array.tobytes() for suffix, array in expected.items()
    }


def test_wire_types_are_spelled_one_way() -> None:
    assert len(set(WIRES)) == len(WIRES) == 14
    form = WireForm.of("uint6-channel+zstd")
    assert (form.bits, form.per_channel, form.is_compressed, form.graph_form) == (6, True, True, "fp32")
    assert [WireForm.of(wire).graph_form for wire in ("fp32", "fp16", "uint8", "uint8+zstd", "uint8-channel")] == [
        "fp32",
        "fp16",
        "uint8",
        "uint8",
        "fp32",
    ]
    for wrong in ("uint5", "uint8-zstd", "fp16+zstd", "UINT8", ""):
        with pytest.raises(ConfigError, match="choose among fp32, fp16, uint8, "):
            WireForm.of(wrong)


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
    # A compressed form has no place before it is known: there `out` has none.
    specs = [spec for spec in wire_specs("x", x.shape, wire) if None not in spec.shape]
    out = {spec.name[1:]: np.zeros(spec.shape, spec.dtype) for spec in specs}
    parts = encode(x, wire, out)
    assert list(parts) == list(WireForm.of(wire).suffixes)
    fresh = encode(x, wire)
    for suffix, array in parts.items():
        assert array is out.get(suffix, array)
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
    assert stage.output_specs() == (None if WireForm.of(wire).is_compressed else tuple(specs))
    packet.tensors["extra"] = np.ones(2, np.uint8)
    Decode(["features", "memory"], wire).process(packet)
    assert set(packet.tensors) == {"features", "memory", "extra"}
    tolerance = {32: 0, 16: 2e-3, 8: 2e-2, 6: 8e-2, 4: 0.3}[WireForm.of(wire).bits]
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


@pytest.mark.parametrize(
    ("wire", "released"), [("fp32", 0), ("fp16", 1), ("uint8", 1), ("uint4", 1), ("uint6+zstd", 1)]
)
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
