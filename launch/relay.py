"""A link with delay for kernels without netem: a process between two TUN devices, one in each network namespace.

    python relay.py PID_A PID_B DEVICE DELAY_MS

makes DEVICE in the network namespaces of both processes, prints `ready`, and hands every packet over DELAY_MS later, in
both directions, so the round trip is 2 x DELAY_MS. Ends when its standard input ends, that is with whoever started it.
Stands alone: nothing of the package is imported.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_MAX_PACKET_BYTES = 65_550
"""Segments that the kernel has not cut yet cross as one, behind a 10-byte header: a tenth of the work per byte."""
_PACKETS_PER_TURN = 64


def enter_network(pid: int) -> None:
    """Move this thread into the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)


def open_tun(device: str) -> int:
    """A TUN device in this thread's network namespace; it lives as long as the returned file descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    return fd


def relay(fds: tuple[int, int], delay_ns: int, stop_fd: int) -> None:
    """Pass packets between two TUN devices, each `delay_ns` after it came, until `stop_fd` is at its end."""
    other = {fds[0]: fds[1], fds[1]: fds[0]}
    waiting: deque[tuple[int, int, bytes]] = deque()  # the delay is one for all, so due times are in order
    while True:
        timeout_s = max(0, waiting[0][0] - time.monotonic_ns()) / 1e9 if waiting else None
        readable, _, _ = select.select([*fds, stop_fd], [], [], timeout_s)
        if stop_fd in readable and not os.read(stop_fd, 64):
            return
        for fd in fds:
            if fd in readable:
                for _ in range(_PACKETS_PER_TURN):
                    try:
                        packet = os.read(fd, _MAX_PACKET_BYTES)
                    except BlockingIOError:
                        break
                    waiting.append((time.monotonic_ns() + delay_ns, other[fd], packet))
        now = time.monotonic_ns()
        while waiting and waiting[0][0] <= now:
            _, target, packet = waiting.popleft()
            try:
                os.write(target, packet)
            except OSError as error:
                # A device that is down (EIO) or full loses packets, as a cable does.
                if error.errno not in (errno.EIO, errno.EAGAIN, errno.ENOBUFS):
                    raise


def main() -> None:
    """Entry of the process; arguments as in the module's docstring."""
    pid_a, pid_b, device, delay_ms = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    fds = []
    for pid in (pid_a, pid_b):
        enter_network(pid)
        fds.append(open_tun(device))
    print("ready", flush=True)
    relay((fds[0], fds[1]), round(delay_ms * 1e6), sys.stdin.fileno())


if __name__ == "__main__":
    main()
