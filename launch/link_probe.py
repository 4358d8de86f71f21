"""Round trip and rate of plain TCP between two hosts: what MPI can reach at best.

    python -m splitrail.launch.link_probe serve [NETWORK]            prints {"address": ..., "port": ...}, serves one client
    python -m splitrail.launch.link_probe connect ADDRESS PORT       prints {"round_trip_ms": ..., "rate_bit_per_s": ...}

Both end by themselves: the server also when its standard input ends.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import threading
import time

import psutil

TIMEOUT_S = 10.0
_NUM_ROUND_TRIPS = 20
_SEND_S = 1.0
_PING_BYTES = 8
_BLOCK_BYTES = 1 << 16
_MAX_UNSENT_BYTES = 1 << 17
"""Keeps the end near on a slow link: what the socket has taken must still cross it."""


def serve(network: str | None) -> None:
    """Wait for one client: answer its pings, then take what it sends and acknowledge its end."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    with socket.create_server(("", 0)) as server:
        server.settimeout(TIMEOUT_S)
        print(json.dumps({"address": _address_in(network), "port": server.getsockname()[1]}), flush=True)
        client, _ = server.accept()
    with client:
        client.settimeout(TIMEOUT_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_NUM_ROUND_TRIPS):
            client.sendall(_receive(client, _PING_BYTES))
        block = bytearray(_BLOCK_BYTES)
        while client.recv_into(block):
            pass
        client.sendall(b"\0")


def connect(address: str, port: int) -> dict[str, float]:
    """Measure the link to a server: median round trip in ms and goodput in bit/s."""
    with socket.create_connection((address, port), TIMEOUT_S) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
        trips_s = []
        for _ in range(_NUM_ROUND_TRIPS):
            begin = time.monotonic()
            link.sendall(bytes(_PING_BYTES))
            _receive(link, _PING_BYTES)
            trips_s.append(time.monotonic() - begin)
        trip_s = sorted(trips_s)[_NUM_ROUND_TRIPS // 2]
        block = bytes(_BLOCK_BYTES)
        begin, num_bytes = time.monotonic(), 0
        while time.monotonic() - begin < _SEND_S:
            link.sendall(block)
            num_bytes += len(block)
        link.shutdown(socket.SHUT_WR)
        _receive(link, 1)
        elapsed_s = time.monotonic() - begin - trip_s
    return {"round_trip_ms": trip_s * 1e3, "rate_bit_per_s": num_bytes * 8 / elapsed_s}


def _receive(link: socket.socket, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        part = link.recv(num_bytes - len(data))
        if not part:
            raise ConnectionError("the other host has closed the connection")
        data += part
    return data


def _address_in(network: str | None) -> str | None:
    """This host's address in one of the networks, which are joined by commas."""
    networks = [ipaddress.ip_network(part) for part in network.split(",")] if network else []
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and any(
                ipaddress.ip_address(address.address) in one for one in networks
            ):
                return str(address.address)
    return None


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Entry of the process; arguments as in the module's docstring."""
    verb, *arguments = sys.argv[1:]
    try:
        if verb == "serve":
            serve(arguments[0] if arguments else None)
        else:
            print(json.dumps(connect(arguments[0], int(arguments[1]))))
    except OSError as error:
        print(f"no TCP connection between the hosts ({error}); check the firewall and the network", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
