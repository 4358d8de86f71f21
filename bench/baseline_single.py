"""No pipeline at all: one process computes both parts of a frame, then takes the next. Rank 1 only waits."""

from __future__ import annotations

from .overlap_link import wait_quietly
from .overlap_stretch import Stretch


def stream(stretch: Stretch) -> None:
    """Both ranks call it; rank 0 has both parts. Raises what a stage raised."""
    if stretch.edge is not None:
        edge, tail = stretch.edge_chain(), stretch.tail_chain()
        while (packet := stretch.frames.receive()) is not None:
            edge.process(packet)
            tail.process(packet)
            stretch.results.send(packet)
    wait_quietly(stretch.comm)
