"""The lanes of a run in frame order and the edges between them, as the journals tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STAGES = {"source": "capture", "sink": "output", "encode-jpeg": "jpeg_encode", "decode-jpeg": "jpeg_decode"}
"""Stage of a placement -> its name in the journal, where they differ."""


@dataclass(frozen=True, slots=True)
class ChainLane:
    """One lane."""

    rank: int
    name: str
    inbound_edge: str | None
    """Name of the edge its packets come over; None where they come from a source or from a lane of the same rank."""
    outbound_edge: str | None

    @property
    def stages(self) -> tuple[str, ...]:
        """Its stages as the journal names them."""
        return tuple(_STAGES.get(stage, stage) for stage in self.name.split("+"))


class RunChain:
    """All lanes in frame order. `lanes` is empty when no journal reached its first line."""

    def __init__(self, begins: Mapping[int, Mapping[str, Any]]) -> None:
        facts = next((facts for facts in begins.values() if facts.get("chain")), {})
        self.lanes = _lanes(facts.get("chain", ()), facts.get("edges", {}))

    def of_stage(self, rank: int, stage: str) -> ChainLane | None:
        """The lane of `rank` that computes `stage`."""
        mine = [lane for lane in self.lanes if lane.rank == rank]
        for lane in mine:
            if stage in lane.stages:
                return lane
        # What is added at an edge, a codec, is in no lane's name.
        decodes = stage.endswith("decode")
        return next((lane for lane in mine if (lane.inbound_edge if decodes else lane.outbound_edge) is not None), None)

    def of_wait(self, rank: int, cause: str, where: str) -> ChainLane | None:
        """The lane of `rank` that waited. `where` is what it waited at: an edge, or the queue behind the lane of that name."""
        for index, lane in enumerate(self.lanes):
            if lane.rank != rank:
                continue
            if cause == "input":
                behind = self.lanes[index - 1].name if index and lane.inbound_edge is None else lane.inbound_edge
            else:
                behind = lane.name if cause == "queue" else lane.outbound_edge
            if behind == where or (cause == "sink" and "output" in lane.stages):
                return lane
        return None

    def sender(self, edge: str) -> ChainLane | None:
        """The lane whose packets leave over `edge`."""
        return next((lane for lane in self.lanes if lane.outbound_edge == edge), None)

    def receiver(self, edge: str) -> ChainLane | None:
        """The lane whose packets come over `edge`."""
        return next((lane for lane in self.lanes if lane.inbound_edge == edge), None)

    def edges(self) -> list[str]:
        """Names of the edges in frame order."""
        return [lane.outbound_edge for lane in self.lanes if lane.outbound_edge is not None]


def _lanes(chain: Sequence[tuple[int, str]], edges: Mapping[str, str]) -> tuple[ChainLane, ...]:
    # Edges are numbered along the chain: the i-th change of rank is edge i.
    lanes: list[ChainLane] = []
    inbound: str | None = None
    num_edges = 0
    for index, (rank, name) in enumerate(chain):
        outbound = None
        if index + 1 < len(chain) and chain[index + 1][0] != rank:
            outbound = edges.get(str(num_edges))
            num_edges += 1
        lanes.append(ChainLane(rank, name, inbound, outbound))
        inbound = outbound
    return tuple(lanes)
