"""What the link between the two ranks of the overlap bench does by itself."""

from __future__ import annotations

import socket
import time

import numpy as np
from mpi4py import MPI

from ..pipeline.clock import now_ns

_QUIET_POLL_S = 2e-3
_TIMEOUT_S = 60.0


def raw_goodput(comm: MPI.Comm, address: str, num_bytes: int = 64 << 20, limit_s: float = 1.5) -> float:
    """Goodput of one TCP connection from rank 0 to rank 1 beside MPI, bytes/s, known on rank 1; 0.0 on rank 0.

    Rank 0 sends for `limit_s` or `num_bytes`, whichever ends first; rank 1 counts what it got after the first 10 %.
    """
    if comm.rank == 1:
        with socket.create_server((address, 0)) as server:
            server.settimeout(_TIMEOUT_S)
            send_port(comm, server.getsockname()[1])
            connection, _ = server.accept()
            with connection:
                return _drain(connection)
    block = bytes(1 << 18)
    with socket.create_connection((address, receive_port(comm)), timeout=_TIMEOUT_S) as connection:
        end = time.monotonic() + limit_s
        sent = 0
        while sent < num_bytes and time.monotonic() < end:
            connection.sendall(block)
            sent += len(block)
    return 0.0


def send_port(comm: MPI.Comm, port: int) -> None:
    """Rank 1: tell rank 0 where it listens."""
    comm.Send(np.array([port], np.int64), 0)


def receive_port(comm: MPI.Comm) -> int:
    """Rank 0: where rank 1 listens."""
    port = np.zeros(1, np.int64)
    comm.Recv(port, 1)
    return int(port[0])


def measure_round_trip(comm: MPI.Comm, num_pings: int = 20) -> int:
    """Shortest round trip of an 8-byte message between ranks 0 and 1, ns; the same number on both."""
    ball = np.zeros(1, np.int64)
    times = []
    for _ in range(num_pings):
        begin = now_ns()
        if comm.rank == 0:
            comm.Send(ball, 1)
            comm.Recv(ball, 1, 0)
        else:
            comm.Recv(ball, 0, 0)
            comm.Send(ball, 0)
        times.append(now_ns() - begin)
    shortest = np.array([min(times)], np.int64)
    comm.Bcast(shortest, 0)
    return int(shortest[0])


def wait_quietly(comm: MPI.Comm) -> None:
    """A barrier that leaves the core to whoever is still at work."""
    barrier = comm.Ibarrier()
    while not barrier.Test():
        time.sleep(_QUIET_POLL_S)


def _drain(connection: socket.socket) -> float:
    buffer = bytearray(1 << 20)
    marks = [(time.monotonic(), 0)]
    total = 0
    while received := connection.recv_into(buffer):
        total += received
        marks.append((time.monotonic(), total))
    first = next(mark for mark in marks if mark[1] >= total * 0.1)
    return (total - first[1]) / max(marks[-1][0] - first[0], 1e-9)
