"""Taking tensors out of a packet: checked when read, the receive buffer given back when done."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..pipeline.errors import MessageError
from ..pipeline.packet import Array, Packet


def tensor_of(packet: Packet, name: str, dtype: str, reader: str) -> Array:
    """The packet's tensor `name`. `reader` is the stage that asks, for the message.

    Raises MessageError: it is missing or of another dtype.
    """
    array = packet.tensors.get(name)
    if array is None:
        held = ", ".join(packet.tensors) or "no tensor"
        raise MessageError(f"frame {packet.frame}: {reader} reads tensor [{name}] and the packet has [{held}]")
    if array.dtype != dtype:
        raise MessageError(f"frame {packet.frame}: {reader} reads [{name}] as {dtype} and it came as {array.dtype}")
    return array


def release_unread(packet: Packet, before: Mapping[str, Array]) -> None:
    """Give the receive buffer back if none of the packet's tensors lies in the tensors it had `before`."""
    if packet.held is not None and not any(
        np.may_share_memory(new, old) for new in packet.tensors.values() for old in before.values()
    ):
        packet.release()
