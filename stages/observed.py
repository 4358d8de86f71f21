"""What a policy sees when it chooses how to do a frame, and what follows from it for each setting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observed:
    """One look, at the moment when the edge takes a frame. Sequences are by setting."""

    time_ns: int
    rate_bytes_per_s: float | None
    """What the link carries now; None before the first message has arrived."""
    round_trip_s: float
    under_way_bytes: int
    """Sent, and not known to have arrived."""
    under_way_s: float
    """Since when the link has been at work on the first of them."""
    num_bytes: tuple[float, ...]
    """Of a message, header included: what such messages had, else what the bundle's table says."""
    edge_s: tuple[float, ...]
    """Service time of the edge's lane; 0 where it is not known."""
    far_s: tuple[float, ...]
    """Service time of the receiving lane; 0 where it is not known."""
    far_queue: int
    """Frames that have arrived and wait for that lane."""
    age_s: float
    """Of the frame since its capture; 0 where source and edge are on two hosts."""
    interval_s: float | None
    """Between two frames of a live source; None for files, which wait."""

    def wire_s(self, setting: int) -> float:
        """Time of a message on the link; 0 while nothing is known of the link."""
        return self.num_bytes[setting] / self.rate_bytes_per_s if self.rate_bytes_per_s else 0.0

    def period_s(self, setting: int) -> float:
        """Time between two results if all frames had this setting: what the slowest of edge, link and far side takes, since they
        work side by side."""
        return max(self.edge_s[setting], self.wire_s(setting), self.far_s[setting])

    def delay_s(self, setting: int) -> float:
        """Time from capture to result if this frame has the setting: behind what is under way and queued."""
        ahead_s = 0.0
        if self.rate_bytes_per_s:
            ahead_s = max(0.0, self.under_way_bytes / self.rate_bytes_per_s - self.under_way_s - self.edge_s[setting])
        far_s = self.far_s[setting]
        return (
            self.age_s
            + self.edge_s[setting]
            + ahead_s
            + self.wire_s(setting)
            + self.round_trip_s
            + self.far_queue * far_s
            + far_s
        )
