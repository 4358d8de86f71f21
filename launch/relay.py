"""A link with delay for kernels without netem, and with a rate that short messages feel too: a process between two TUN devices,
one in each network namespace.

    python relay.py PID_A PID_B DEVICE DELAY_MS RATE_BIT_PER_S

makes DEVICE in the network namespaces of both processes, prints `ready`, and hands every packet over when it has been on the
line for its length at RATE_BIT_PER_S (0: no time) and DELAY_MS more, in both directions, so the round trip is 2 x DELAY_MS.
A number on a line of its standard input is a new rate. Ends when its standard input ends, that is with whoever started it.
Stands alone: nothing of the package is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_MAX_PACKET_BYTES = 65_550
"""Segments that the kernel has not cut yet cross as one, behind a 10-byte header: a tenth of the work per byte."""
_PACKETS_PER_TURN = 64
_VNET_HEADER_BYTES, _ETHERNET_HEADER_BYTES = 10, 14
_AHEAD_S, _NUM_AHEAD = 0.02, 2
"""So much of the line's time, but two packets at least, is taken ahead, as a network card does: what waits longer waits in the
sender's queue, so that TCP holds back and nothing is lost."""


def enter_network(pid: int) -> None:
    """Move this thread into the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)


def open_tun(device: str, *, is_uncut: bool) -> int:
    """A TUN device in this thread's network namespace; it lives as long as the returned file descriptor.

    `is_uncut`: segments of many packets come as one, which then are on the line as one.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 if is_uncut else _TUN_F_CSUM)
    return fd


@dataclass
class Line:
    """One direction: packets of `source` go to `target`, one after the other at `rate` bit/s and `delay_ns` later."""

    source: int
    target: int
    delay_ns: int
    rate: int
    """0: none."""
    free_ns: int = 0
    """When the last packet that was begun has been sent."""
    ahead: deque[tuple[int, bytes]] = field(default_factory=deque)
    """Time of arrival and packet; not begun."""
    ahead_bits: int = 0
    flying: deque[tuple[int, bytes]] = field(default_factory=deque)
    """When it is due at the other end, and packet."""

    @property
    def takes(self) -> bool:
        """Whether it reads more."""
        return not self.rate or len(self.ahead) < _NUM_AHEAD or self.ahead_bits < _AHEAD_S * self.rate

    @property
    def due_ns(self) -> int | None:
        """When something is to be done; None: nothing until a packet comes."""
        times = [self.flying[0][0]] if self.flying else []
        if self.ahead:
            times.append(self.free_ns)
        return min(times, default=None)

    def put(self, now_ns: int, packet: bytes) -> None:
        """A packet came."""
        self.ahead.append((now_ns, packet))
        self.ahead_bits += _num_bits(packet)

    def advance(self, now_ns: int) -> list[bytes]:
        """Packets that have arrived at the other end by now, in order."""
        while self.ahead and self.free_ns <= now_ns:
            came_ns, packet = self.ahead.popleft()
            num_bits = _num_bits(packet)
            self.ahead_bits -= num_bits
            on_line_ns = num_bits * 10**9 // self.rate if self.rate else 0
            # By the line's own time: this process wakes up late.
            self.free_ns = max(self.free_ns, came_ns) + on_line_ns
            self.flying.append((self.free_ns + self.delay_ns, packet))
        arrived = []
        while self.flying and self.flying[0][0] <= now_ns:
            arrived.append(self.flying.popleft()[1])
        return arrived


def _num_bits(packet: bytes) -> int:
    """On an Ethernet."""
    return 8 * (len(packet) - _VNET_HEADER_BYTES + _ETHERNET_HEADER_BYTES)


def relay(lines: tuple[Line, Line], control_fd: int) -> None:
    """Pass packets along both lines until `control_fd` is at its end."""
    text = b""
    while True:
        due_ns = min((line.due_ns for line in lines if line.due_ns is not None), default=None)
        timeout_s = None if due_ns is None else max(0, due_ns - time.monotonic_ns()) / 1e9
        readable, _, _ = select.select([*(line.source for line in lines if line.takes), control_fd], [], [], timeout_s)
        if control_fd in readable:
            said = os.read(control_fd, 64)
            if not said:
                return
            *rates, text = (text + said).split(b"\n")
            for line in lines if rates else ():
                line.rate = int(rates[-1])
        for line in lines:
            if line.source in readable:
                _read(line)
            for packet in line.advance(time.monotonic_ns()):
                try:
                    os.write(line.target, packet)
                except OSError as error:
                    # A device that is down (EIO) or full loses packets, as a cable does.
                    if error.errno not in (errno.EIO, errno.EAGAIN, errno.ENOBUFS):
                        raise


def _read(line: Line) -> None:
    for _ in range(_PACKETS_PER_TURN):
        if not line.takes:
            return
        try:
            packet = os.read(line.source, _MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        line.put(time.monotonic_ns(), packet)


def main() -> None:
    """Entry of the process; arguments as in the module's docstring."""
    pid_a, pid_b, device, delay_ms, rate = *map(int, sys.argv[1:3]), sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
    fds = []
    for pid in (pid_a, pid_b):
        enter_network(pid)
        fds.append(open_tun(device, is_uncut=rate == 0))
    with contextlib.suppress(OSError):
        # A line does not wait until the hosts at its ends leave it a core.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("ready", flush=True)
    delay_ns = round(delay_ms * 1e6)
    relay((Line(fds[0], fds[1], delay_ns, rate), Line(fds[1], fds[0], delay_ns, rate)), sys.stdin.fileno())


if __name__ == "__main__":
    main()
