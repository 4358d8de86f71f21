"""Byte counters of the network interface that carries the messages: the proof that a figure is of a network."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def interfaces_of(cidr: str) -> set[str]:
    """Names of this host's interfaces with an address in `cidr`; several networks are joined by commas."""
    networks = [ipaddress.ip_network(part.strip(), strict=False) for part in cidr.split(",")]
    return {
        name
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if address.family == socket.AF_INET and any(ipaddress.ip_address(address.address) in net for net in networks)
    }


def tx_bytes(cidr: str | None) -> int | None:
    """Bytes the interfaces of `cidr` have sent since they are up; None where there is no such interface."""
    counters = psutil.net_io_counters(pernic=True)
    names = interfaces_of(cidr) & set(counters) if cidr is not None else set()
    return sum(counters[name].bytes_sent for name in names) if names else None
