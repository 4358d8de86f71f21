"""The channel between two ranks, and the place where their work overlaps.

Sending lane: `reserve` lends it a send buffer, the last stage writes its tensors behind the header, `send` waits for credit
and hands the buffer to the communication thread. Frame n is computed in one buffer while n-1 travels in another. Receiving
lane: the communication thread keeps receives posted, `receive` hands out views of the next message, and the packet's
`release` posts its buffer again. Credits flow back on a tag of their own (`credit.py`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from .clock import now_ns
from .communication import Communication
from .credit import CREDIT_BYTES, Credit, Depth
from .edge import Edge, end_packet
from .errors import FrameError
from .flow import Flow
from .halt import Halt
from .message import HEADER_BYTES, Buffer, new_buffer, pack, parse, stamp, tensor_views, unpack
from .observer import Observer
from .packet import Array, Kind, Packet, TensorSpec

MAX_DEPTH = 16
_MAX_BUFFERED_BYTES = 512 << 20


class MpiOutbound:
    """The sending end; used by one lane."""

    def __init__(
        self, edge: Edge, communication: Communication, halt: Halt, observer: Observer, flow: Flow | None = None
    ) -> None:
        """`flow`, where there is one, hears of every message and credit, and bounds what is under way besides the credits."""
        self._edge = edge
        self._flow = flow
        self._communication = communication
        self._halt = halt
        self._observer = observer
        self._changed = threading.Condition()
        self._free: deque[Buffer] = deque()
        self._num_buffers = 0
        self._reserved: Buffer | None = None
        self._sent_frames = 0
        self._sent_bytes = 0
        self._unfinished = 0
        self._credit = Credit(0, 0, 0, 1 << 62)
        self._credit_buffers = [new_buffer(CREDIT_BYTES) for _ in range(4)]
        for buffer in self._credit_buffers:
            self._receive_credit(buffer)

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> Mapping[str, Array] | None:
        """Wait for a free send buffer; arrays in it for `specs` (which must be this edge's tensors), else None."""
        self._reserved = self._take_buffer(packet.frame)
        if specs is None or tuple(spec.name for spec in specs) != self._edge.tensors_of(packet.setting):
            return None
        return tensor_views(self._reserved, specs)

    def send(self, packet: Packet) -> None:
        """Pack the packet (no copy where the stage wrote into the reserved buffer), wait for credit, send."""
        buffer = self._reserved if self._reserved is not None else self._take_buffer(packet.frame)
        self._reserved = None
        try:
            num_bytes = self._pack(buffer, packet)
        except FrameError as error:
            packet.fail(str(error))
            num_bytes = self._pack(buffer, packet)
        packet.targets = None
        packet.release()
        self._wait_for_credit(packet.frame, num_bytes)
        self._post(buffer, num_bytes, packet)

    def close(self) -> None:
        """Send END, unless the run was halted: then the other side is told by the launcher."""
        if self._halt.error is None:
            self.send(end_packet())
            with self._changed:
                self._halt.wait_for(self._changed, lambda: self._unfinished == 0)

    def _pack(self, buffer: Buffer, packet: Packet) -> int:
        edge = self._edge
        return pack(buffer, packet, edge.tensors_of(packet.setting), edge.sender, payload_crc=edge.payload_crc)

    def _take_buffer(self, frame: int) -> Buffer:
        begin = now_ns()
        with self._changed:
            # Credits bound what is under way, so the pool never grows beyond the depth and the one being computed.
            if not self._free and self._num_buffers <= MAX_DEPTH:
                self._num_buffers += 1
                return new_buffer(self._edge.max_message_bytes)
            self._halt.wait_for(self._changed, lambda: bool(self._free))
            buffer = self._free.popleft()
        self._observer.wait("credit", self._edge.name, frame, begin, now_ns())
        return buffer

    def _wait_for_credit(self, frame: int, num_bytes: int) -> None:
        begin = now_ns()
        with self._changed:
            self._halt.wait_for(self._changed, lambda: self._may_send(num_bytes))
            self._sent_frames += 1
            self._sent_bytes += num_bytes
            self._unfinished += 1
        self._observer.wait("credit", self._edge.name, frame, begin, now_ns())

    def _may_send(self, num_bytes: int) -> bool:
        credit = self._credit
        if self._sent_frames >= credit.granted_frames:
            return False
        under_way_bytes = self._sent_bytes - credit.arrived_bytes
        window_bytes = credit.window_bytes
        if self._flow is not None:
            window_bytes = min(window_bytes, self._flow.window_bytes(num_bytes, now_ns()))
        return under_way_bytes == 0 or under_way_bytes + num_bytes <= window_bytes

    def _post(self, buffer: Buffer, num_bytes: int, packet: Packet) -> None:
        posted_ns = now_ns()
        stamp(buffer, posted_ns)
        frame, kind = packet.frame, int(packet.kind)
        if self._flow is not None:
            self._flow.posted(packet.setting, num_bytes, posted_ns, is_frame=packet.kind is Kind.FRAME)

        def done(_: int, __: int) -> None:
            with self._changed:
                self._free.append(buffer)
                self._unfinished -= 1
                self._changed.notify_all()
            self._observer.transfer(self._edge.name, frame, kind, num_bytes, posted_ns, now_ns())

        self._communication.post_send(buffer[:num_bytes], self._edge.receiver, self._edge.tag, done)

    def _receive_credit(self, buffer: Buffer) -> None:
        def done(num_bytes: int, _: int) -> None:
            credit = Credit.parse(buffer, num_bytes, self._edge.name)
            if self._flow is not None:
                self._flow.credited(credit, now_ns())
            with self._changed:
                # Several receives are open, so credits may be seen out of order; counts only ever grow.
                if credit.arrived_frames >= self._credit.arrived_frames and credit != self._credit:
                    granted = max(credit.granted_frames, self._credit.granted_frames)
                    self._credit = replace(credit, granted_frames=granted)
                    self._changed.notify_all()
            self._receive_credit(buffer)

        self._communication.post_receive(buffer, self._edge.receiver, self._edge.tag + 1, done)


class MpiInbound:
    """The receiving end; used by one lane. Packets it hands out are released in any order."""

    def __init__(
        self, edge: Edge, communication: Communication, halt: Halt, observer: Observer, round_trip_ns: int
    ) -> None:
        self._edge = edge
        self._communication = communication
        self._halt = halt
        self._observer = observer
        size = HEADER_BYTES + edge.max_message_bytes
        max_depth = max(2, min(MAX_DEPTH, _MAX_BUFFERED_BYTES // size))
        self._depth = Depth(round_trip_ns, edge.eager_limit_bytes, max_depth, is_always_full=edge.carries_results)
        self._changed = threading.Condition()
        self._arrived: dict[int, tuple[Buffer, int, int]] = {}
        self._next = 0
        self._num_posted = 0
        self._num_buffers = 0
        self._arrived_frames = 0
        self._arrived_bytes = 0
        self._arrived_ns = 0
        self._released_frames = 0
        self._served_frames = 0
        self._service_ns = 0
        self._served_setting = 0
        self._taken_ns = 0
        self._taken_setting = 0
        self._credit_under_way = False
        self._credit_sent: Credit | None = None
        self._ended = False
        self._add_buffers()
        self._send_credit()

    @property
    def depth(self) -> int:
        """Frames this edge keeps under way now."""
        return self._depth.frames

    def receive(self) -> Packet | None:
        """The next packet, its tensors views of the receive buffer; None after END."""
        if self._ended:
            return None
        begin = now_ns()
        with self._changed:
            if self._taken_ns:
                self._served_frames += 1
                self._service_ns = begin - self._taken_ns
                self._served_setting = self._taken_setting
                self._taken_ns = 0
            self._halt.wait_for(self._changed, lambda: self._next in self._arrived)
            buffer, num_bytes, arrived_ns = self._arrived.pop(self._next)
            self._next += 1
        header = parse(buffer, num_bytes, self._edge.name)
        self._observer.wait("input", self._edge.name, header.frame, begin, now_ns())
        self._observer.transfer(
            self._edge.name, header.frame, int(header.kind), num_bytes, header.posted_ns, arrived_ns
        )
        if header.kind is Kind.END:
            self._ended = True
            return None
        packet = unpack(buffer, header, self._edge.tensors_of(header.setting), self._edge.name)
        packet.held = lambda: self._release(buffer)
        if header.kind is Kind.FRAME:
            self._taken_setting = header.setting
            self._taken_ns = now_ns()
        return packet

    def close(self) -> None:
        """Nothing to free: open receives are cancelled when the communication stops."""

    def _add_buffers(self) -> None:
        # One is being computed, the others are on their way or wait their turn.
        while self._num_buffers < self._depth.frames + 1:
            self._num_buffers += 1
            self._post(new_buffer(self._edge.max_message_bytes))

    def _post(self, buffer: Buffer) -> None:
        number = self._num_posted
        self._num_posted += 1

        def done(num_bytes: int, _: int) -> None:
            arrived_ns = now_ns()
            with self._changed:
                self._arrived[number] = (buffer, num_bytes, arrived_ns)
                self._arrived_frames += 1
                self._arrived_bytes += num_bytes
                self._arrived_ns = arrived_ns
                self._depth.arrived(num_bytes, arrived_ns)
                self._add_buffers()
                self._changed.notify_all()
            self._send_credit()

        self._communication.post_receive(buffer, self._edge.sender, self._edge.tag, done)

    def _release(self, buffer: Buffer) -> None:
        with self._changed:
            self._released_frames += 1
            self._post(buffer)
        self._send_credit()

    def _send_credit(self) -> None:
        """At most one credit is under way; what changed meanwhile goes out with the next."""
        with self._changed:
            credit = Credit(
                self._released_frames + min(self._depth.frames + 1, self._num_buffers),
                self._arrived_frames,
                self._arrived_bytes,
                self._depth.window_bytes,
                self._arrived_ns,
                self._served_frames,
                self._service_ns,
                self._served_setting,
                len(self._arrived),
            )
            if self._credit_under_way or credit == self._credit_sent:
                return
            self._credit_under_way = True
            self._credit_sent = credit

        def done(_: int, __: int) -> None:
            with self._changed:
                self._credit_under_way = False
            self._send_credit()

        self._communication.post_send(credit.pack(), self._edge.sender, self._edge.tag + 1, done)
