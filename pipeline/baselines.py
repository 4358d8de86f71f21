"""The two loops that everybody writes first, as alternatives of the same channel contract.

`blocking`: Send and Recv between computations; nothing overlaps. `naive`: Isend and Irecv with two buffers, waited for
between computations; a large message only moves while somebody waits, so little overlaps. Both call MPI from the lane's own
thread and start no communication thread, because its testing would move their messages for them. They are here to be
measured against `mpi_channel.py`, not to be used.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from mpi4py import MPI

from .clock import now_ns
from .edge import Edge, end_packet
from .errors import FrameError
from .halt import Halt
from .message import Buffer, new_buffer, pack, parse, stamp, tensor_views, unpack
from .observer import Observer
from .packet import Array, Kind, Packet, TensorSpec


class BaselineOutbound:
    """The sending end of both loops."""

    def __init__(self, comm: MPI.Comm, edge: Edge, halt: Halt, observer: Observer, *, blocking: bool) -> None:
        self._comm = comm
        self._edge = edge
        self._halt = halt
        self._observer = observer
        self._blocking = blocking
        self._buffers = [new_buffer(edge.max_message_bytes) for _ in range(1 if blocking else 2)]
        self._turn = 0
        self._under_way: tuple[MPI.Request, int, int, int, int] | None = None

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> Mapping[str, Array] | None:
        """Arrays in the buffer whose turn it is; it is free, because the send before the last one was waited for."""
        if specs is None or tuple(spec.name for spec in specs) != self._edge.tensors:
            return None
        return tensor_views(self._buffers[self._turn], specs)

    def send(self, packet: Packet) -> None:
        """Wait for the send before, then start (naive) or do (blocking) this one."""
        buffer = self._buffers[self._turn]
        try:
            num_bytes = self._pack(buffer, packet)
        except FrameError as error:
            packet.fail(str(error))
            num_bytes = self._pack(buffer, packet)
        packet.targets = None
        packet.release()
        self._wait()
        posted_ns = now_ns()
        stamp(buffer, posted_ns)
        message = [buffer[:num_bytes], MPI.BYTE]
        if self._blocking:
            self._comm.Send(message, self._edge.receiver, self._edge.tag)
            self._observer.transfer(self._edge.name, packet.frame, int(packet.kind), num_bytes, posted_ns, now_ns())
        else:
            request = self._comm.Isend(message, self._edge.receiver, self._edge.tag)
            self._under_way = (request, packet.frame, int(packet.kind), num_bytes, posted_ns)
        self._turn = (self._turn + 1) % len(self._buffers)

    def close(self) -> None:
        """Send END, unless the run was halted."""
        if self._halt.error is None:
            self.send(end_packet())
            self._wait()

    def _pack(self, buffer: Buffer, packet: Packet) -> int:
        return pack(buffer, packet, self._edge.tensors, self._edge.sender, payload_crc=self._edge.payload_crc)

    def _wait(self) -> None:
        if self._under_way is not None:
            begin = now_ns()
            request, frame, kind, num_bytes, posted_ns = self._under_way
            request.Wait()
            end = now_ns()
            self._observer.wait("credit", self._edge.name, frame, begin, end)
            self._observer.transfer(self._edge.name, frame, kind, num_bytes, posted_ns, end)
            self._under_way = None


class BaselineInbound:
    """The receiving end of both loops."""

    def __init__(self, comm: MPI.Comm, edge: Edge, halt: Halt, observer: Observer, *, blocking: bool) -> None:
        self._comm = comm
        self._edge = edge
        self._halt = halt
        self._observer = observer
        self._blocking = blocking
        self._buffers = [new_buffer(edge.max_message_bytes) for _ in range(1 if blocking else 2)]
        self._held = [False] * len(self._buffers)
        self._changed = threading.Condition()
        self._turn = 0
        self._request: MPI.Request | None = None
        self._ended = False

    def receive(self) -> Packet | None:
        """Wait for the message; in the naive loop the receive for the next one is posted before this returns."""
        if self._ended:
            return None
        begin = now_ns()
        status = MPI.Status()
        turn = self._turn
        buffer = self._buffers[turn]
        if self._blocking:
            self._wait_released(turn)
            self._comm.Recv([buffer, MPI.BYTE], self._edge.sender, self._edge.tag, status)
        else:
            if self._request is None:
                self._request = self._comm.Irecv([buffer, MPI.BYTE], self._edge.sender, self._edge.tag)
            self._request.Wait(status)
        arrived_ns = now_ns()
        num_bytes = status.Get_count(MPI.BYTE)
        header = parse(buffer, num_bytes, self._edge.name)
        self._observer.wait("input", self._edge.name, header.frame, begin, arrived_ns)
        self._observer.transfer(
            self._edge.name, header.frame, int(header.kind), num_bytes, header.posted_ns, arrived_ns
        )
        if header.kind is Kind.END:
            self._ended = True
            return None
        self._turn = (turn + 1) % len(self._buffers)
        if not self._blocking:
            self._wait_released(self._turn)
            following = [self._buffers[self._turn], MPI.BYTE]
            self._request = self._comm.Irecv(following, self._edge.sender, self._edge.tag)
        packet = unpack(buffer, header, self._edge.tensors, self._edge.name)
        self._held[turn] = True
        packet.held = lambda: self._release(turn)
        return packet

    def close(self) -> None:
        """Nothing to free."""

    def _release(self, turn: int) -> None:
        with self._changed:
            self._held[turn] = False
            self._changed.notify_all()

    def _wait_released(self, turn: int) -> None:
        with self._changed:
            self._halt.wait_for(self._changed, lambda: not self._held[turn])
