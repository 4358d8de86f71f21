"""The wire: what is packed comes out the same, what was damaged is refused with rank, kind and frame named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitrail.pipeline.errors import FrameError, MessageError
from splitrail.pipeline.message import HEADER_BYTES, layout, new_buffer, pack, parse, stamp, tensor_views, unpack
from splitrail.pipeline.packet import Kind, Packet, TensorSpec

DTYPES = ["float32", "float16", "uint8", "int8", "int32", "int64"]


def message(packet, names, size=1 << 16, **options):
    buffer = new_buffer(size)
    num_bytes = pack(buffer, packet, names, sender=3, **options)
    stamp(buffer, 77)
    return buffer, num_bytes


@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=6)), min_size=0, max_size=8),
    st.integers(0, 2**62),
    st.booleans(),
)
def test_a_packet_survives_the_wire(shapes, number, crc):
    rng = np.random.default_rng(0)
    tensors = {f"t{index}": rng.integers(0, 100, shape).astype(dtype) for index, (dtype, shape) in enumerate(shapes)}
    packet = Packet(number, number + 1, number + 2, (480, 640), (400, 533), tensors)
    buffer, num_bytes = message(packet, list(tensors), 1 << 20, payload_crc=crc)
    header = parse(buffer, num_bytes, "0->1")
    back = unpack(buffer, header, list(tensors), "0->1")
    assert (header.sender, header.posted_ns, header.kind) == (3, 77, Kind.FRAME)
    assert (back.frame, back.capture_ns, back.pts_ns) == (number, number + 1, number + 2)
    assert (back.source_size, back.valid_size) == ((480, 640), (400, 533))
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back.tensors[name], tensor)


def test_every_payload_tensor_is_aligned_and_written_in_place():
    specs = (TensorSpec("a", "uint8", (3,)), TensorSpec("b", "float32", (5, 2)))
    buffer = new_buffer(layout(specs)[1])
    views = tensor_views(buffer, specs)
    for view in views.values():
        assert view.ctypes.data % 64 == 0
        assert np.shares_memory(view, buffer)
    views["a"][:] = 7
    views["b"][:] = 1.5
    packet = Packet(0, 0, 0, (1, 1), tensors=dict(views))
    num_bytes = pack(buffer, packet, ["a", "b"], 0)
    back = unpack(buffer, parse(buffer, num_bytes, "e"), ["a", "b"], "e")
    assert back.tensors["a"].tolist() == [7, 7, 7]
    assert (back.tensors["b"] == 1.5).all()


def test_a_failed_packet_brings_its_reason_and_no_tensors():
    packet = Packet(9, 0, 0, (1, 1), tensors={"a": np.zeros(4)})
    packet.fail("cannot decode: naïve")
    buffer, num_bytes = message(packet, ["a"])
    back = unpack(buffer, parse(buffer, num_bytes, "e"), ["a"], "e")
    assert (back.kind, back.reason, back.tensors) == (Kind.FAILED, "cannot decode: naïve", {})


@pytest.mark.parametrize("kind", [Kind.EMPTY, Kind.END])
def test_a_packet_without_tensors_is_only_a_header(kind):
    _, num_bytes = message(Packet(1, 0, 0, (1, 1), kind=kind, tensors={"a": np.zeros(4, np.uint8)}), ["a"])
    assert num_bytes == HEADER_BYTES


def test_every_changed_header_byte_is_refused():
    buffer, num_bytes = message(Packet(5, 1, 2, (3, 4), tensors={"a": np.arange(4, dtype=np.uint8)}), ["a"])
    for position in range(HEADER_BYTES):
        damaged = buffer.copy()
        damaged[position] ^= 0x41
        with pytest.raises(MessageError):
            parse(damaged, num_bytes, "edge 0->1")


def test_a_refused_message_is_named_by_rank_kind_and_frame():
    buffer, num_bytes = message(Packet(5, 1, 2, (3, 4), tensors={"a": np.arange(4, dtype=np.uint8)}), ["a"])
    damaged = buffer.copy()
    damaged[40] ^= 1  # a byte of the sizes: rank, kind and frame are still legible
    with pytest.raises(MessageError, match=r"0->1: message of rank 3, kind FRAME, frame 5: the header's checksum"):
        parse(damaged, num_bytes, "0->1")
    with pytest.raises(MessageError, match="announces 4 payload bytes and brings 3"):
        parse(buffer, num_bytes - 1, "0->1")
    with pytest.raises(MessageError, match="shorter than a header"):
        parse(buffer, 100, "0->1")
    with pytest.raises(MessageError, match="1 tensors where 2 are expected"):
        unpack(buffer, parse(buffer, num_bytes, "0->1"), ["a", "b"], "0->1")


def test_a_changed_payload_is_refused_when_it_has_a_checksum():
    packet = Packet(5, 1, 2, (3, 4), tensors={"a": np.arange(64, dtype=np.uint8)})
    buffer, num_bytes = message(packet, ["a"], payload_crc=True)
    buffer[HEADER_BYTES + 10] ^= 1
    with pytest.raises(MessageError, match="payload's checksum"):
        parse(buffer, num_bytes, "0->1")


def test_a_packet_that_does_not_fit_is_a_failed_frame_not_an_overrun():
    packet = Packet(0, 0, 0, (1, 1), tensors={"a": np.zeros(1000, np.uint8)})
    with pytest.raises(FrameError, match="image-wire jpeg"):
        message(packet, ["a"], size=500)
    with pytest.raises(FrameError, match="'b' is not in the packet"):
        message(packet, ["b"])
    with pytest.raises(FrameError, match="does not fit into a message"):
        message(Packet(0, 0, 0, (1, 1), tensors={"a": np.zeros(3)}), ["a"])  # float64 has no code
