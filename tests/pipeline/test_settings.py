"""A frame's setting: in its header, in what an edge carries, in the chain it goes through, and what comes back with credits."""

import numpy as np
import pytest

from splitrail.pipeline.credit import CREDIT_BYTES, Credit
from splitrail.pipeline.edge import Edge
from splitrail.pipeline.errors import FrameError, MessageError
from splitrail.pipeline.message import new_buffer, pack, parse, unpack
from splitrail.pipeline.observer import NullObserver
from splitrail.pipeline.packet import Kind, Packet, TensorSpec
from splitrail.pipeline.switch import Switch


@pytest.mark.parametrize("setting", [0, 1, 7, 255])
def test_the_header_carries_the_setting(setting):
    buffer = new_buffer(4096)
    packet = Packet(3, 1, 2, (4, 5), tensors={"x": np.arange(6, dtype=np.float32)}, setting=setting)
    num_bytes = pack(buffer, packet, ("x",), 0)
    header = parse(buffer, num_bytes, "0->1")
    assert header.setting == setting
    there = unpack(buffer, header, ("x",), "0->1")
    assert there.setting == setting
    np.testing.assert_array_equal(there.tensors["x"], packet.tensors["x"])


def test_what_an_edge_carries_follows_the_setting():
    edge = Edge(0, 0, 1, ("features",), 4096, by_setting=(("features_fp16",), ("jpeg",)))
    assert edge.name == "0->1 features"
    assert [edge.tensors_of(setting) for setting in (0, 1)] == [("features_fp16",), ("jpeg",)]
    with pytest.raises(MessageError, match="setting 2, and this run has 2"):
        edge.tensors_of(2)
    assert Edge(0, 0, 1, ("x", "y"), 4096).tensors_of(9) == ("x", "y")


def test_what_the_receiver_saw_comes_back_and_is_no_reason_for_a_credit():
    credit = Credit(7, 5, 999, 1 << 40, 123_456_789_012, 4, 15_000_000, 3, 2)
    raw = credit.pack()
    assert raw.size == CREDIT_BYTES
    back = Credit.parse(raw, raw.size, "0->1")
    for name in ("arrived_ns", "served_frames", "service_ns", "served_setting", "queued_frames"):
        assert getattr(back, name) == getattr(credit, name)
    assert credit == Credit(7, 5, 999, 1 << 40)
    assert credit != Credit(7, 6, 999, 1 << 40)


class Step:
    def __init__(self, name, work=lambda packet: None, specs=None):
        self.name, self.work, self.specs, self.closed = name, work, specs, 0

    def process(self, packet):
        packet.tensors[self.name] = np.zeros(1)
        self.work(packet)

    def output_specs(self):
        return self.specs

    def close(self):
        self.closed += 1


def test_a_frame_goes_through_the_chain_of_its_setting():
    spec = (TensorSpec("x", "uint8", (3,)),)
    shared, first, second = Step("shared"), Step("first", specs=spec), Step("second")
    served = []
    switch = Switch([[shared, first], [shared, second], []], NullObserver(), lambda *told: served.append(told))
    passed = []
    for setting in (0, 1, 0, 2, 1):
        packet = Packet(0, 0, 0, (1, 1), setting=setting)
        switch.process(packet)
        passed.append(list(packet.tensors))
    assert passed == [["shared", "first"], ["shared", "second"], ["shared", "first"], [], ["shared", "second"]]
    assert [setting for setting, _ in served] == [0, 1, 0, 2, 1]
    assert all(ns >= 0 for _, ns in served)
    assert switch.specs_of(0) == spec
    assert switch.specs_of(1) is None
    assert switch.specs_of(2) is None
    assert switch.current == ""
    switch.close()
    assert [step.closed for step in (shared, first, second)] == [1, 1, 1]


def test_a_frame_that_fails_in_one_chain_is_no_service_time():
    def fail(packet):
        raise FrameError("no")

    served = []
    switch = Switch([[Step("broken", fail), Step("later")]], NullObserver(), lambda *told: served.append(told))
    packet = Packet(0, 0, 0, (1, 1))
    switch.process(packet)
    assert packet.kind is Kind.FAILED
    assert served == []
