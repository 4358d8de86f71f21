"""A directed connection between two lanes on different ranks."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import MessageError
from .packet import Kind, Packet

FIRST_TAG = 16
"""Tags below are the launcher's; edge i has 16 + 2 i for messages and the next one for credits."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A directed connection between a lane on one rank and a lane on another."""

    index: int
    sender: int
    receiver: int
    tensors: tuple[str, ...]
    """Names of the tensors of a frame, in message order."""
    max_message_bytes: int
    """Largest payload, bytes."""
    payload_crc: bool = False
    eager_limit_bytes: int = 65_536
    """What MPI sends without asking first, bytes."""
    carries_results: bool = False
    """Detections: too small to fill a link, and they must never hold up the frames in flight ahead of them."""
    by_setting: tuple[tuple[str, ...], ...] = ()
    """Where what travels depends on the packet's setting: the names for each; else empty, and they are `tensors`."""

    @property
    def name(self) -> str:
        """For messages and journals: "0->1 features"."""
        return f"{self.sender}->{self.receiver} {'+'.join(self.tensors)}"

    @property
    def tag(self) -> int:
        """Tag of the messages; credits use the next one."""
        return FIRST_TAG + 2 * self.index

    def tensors_of(self, setting: int) -> tuple[str, ...]:
        """Names of the tensors of a frame with this setting. Raises MessageError: there is no such setting."""
        if not self.by_setting:
            return self.tensors
        if not 0 <= setting < len(self.by_setting):
            raise MessageError(
                f"{self.name}: a frame with setting {setting}, and this run has {len(self.by_setting)} of them; "
                "install the same splitrail on all hosts"
            )
        return self.by_setting[setting]


def end_packet() -> Packet:
    """The last packet of an edge."""
    return Packet(-1, 0, 0, (0, 0), kind=Kind.END)
