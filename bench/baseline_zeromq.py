"""The stretch over ZeroMQ, as one writes it: two processes, PUSH and PULL, a thread that sends and one that receives.

Nothing is pickled, nothing is copied that need not be, and two frames may wait at each end. MPI only started the two
processes and told the port; it carries no frame.
"""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import numpy as np

from ..pipeline.errors import ConfigError
from ..pipeline.packet import Packet
from .overlap_frames import facts_of, packet_of
from .overlap_link import receive_port, send_port, wait_quietly
from .overlap_stretch import Stretch

_WAITING_FRAMES = 2


def stream(stretch: Stretch) -> None:
    """Both ranks call it. Raises what a stage or a thread raised; ConfigError where pyzmq is missing."""
    zmq = import_zeromq()
    with zmq.Context() as context:
        if stretch.edge is not None:
            with context.socket(zmq.PUSH) as socket:
                socket.set_hwm(_WAITING_FRAMES)
                socket.connect(f"tcp://{stretch.config.address}:{receive_port(stretch.comm)}")
                _compute_and_send(stretch, socket)
        else:
            with context.socket(zmq.PULL) as socket:
                socket.set_hwm(_WAITING_FRAMES)
                send_port(stretch.comm, socket.bind_to_random_port("tcp://*"))
                _receive_and_compute(stretch, socket)
    wait_quietly(stretch.comm)


def import_zeromq() -> Any:
    """The module. Raises ConfigError with the line that installs it."""
    try:
        import zmq
    except ImportError as error:
        raise ConfigError("the zeromq baseline needs pyzmq: pip install 'splitrail[bench]'") from error
    return zmq


def _compute_and_send(stretch: Stretch, socket: Any) -> None:
    ready: queue.Queue[Packet | None] = queue.Queue(_WAITING_FRAMES)
    failed: list[BaseException] = []

    def send_all() -> None:
        try:
            while (packet := ready.get()) is not None:
                described = [(name, tensor.dtype.name, tensor.shape) for name, tensor in packet.tensors.items()]
                header = json.dumps([facts_of(packet), described]).encode()
                socket.send_multipart([header, *packet.tensors.values()], copy=False)
        except BaseException as error:
            failed.append(error)
            # What was sent must not keep the process: the other end may be gone.
            socket.linger = 0
            while ready.get() is not None:
                pass  # who computes must not wait for room here for ever

    sender = threading.Thread(target=send_all, daemon=True)
    sender.start()
    chain = stretch.edge_chain()
    while not failed and (packet := stretch.frames.receive()) is not None:
        chain.process(packet)
        facts_of(packet)  # a frame that could not be done ends the bench here
        ready.put(packet)
    ready.put(None)
    sender.join()
    if failed:
        raise failed[0]
    socket.send_multipart([b"end"])


def _receive_and_compute(stretch: Stretch, socket: Any) -> None:
    arrived: queue.Queue[Packet | BaseException | None] = queue.Queue(_WAITING_FRAMES)

    def receive_all() -> None:
        try:
            while True:
                header, *parts = socket.recv_multipart(copy=False)
                if not parts:
                    arrived.put(None)
                    return
                facts, described = json.loads(header.bytes)
                tensors = {
                    name: np.frombuffer(part.buffer, dtype).reshape(shape)
                    for (name, dtype, shape), part in zip(described, parts, strict=True)
                }
                arrived.put(packet_of(facts, tensors))
        except BaseException as error:
            arrived.put(error)

    receiver = threading.Thread(target=receive_all, daemon=True)
    receiver.start()
    chain = stretch.tail_chain()
    while (packet := arrived.get()) is not None:
        if isinstance(packet, BaseException):
            raise packet
        chain.process(packet)
        stretch.results.send(packet)
    receiver.join()
