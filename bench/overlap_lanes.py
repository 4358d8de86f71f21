"""The stretch through lanes: the product's own channel, or the naive loops behind the same contract."""

from __future__ import annotations

from ..pipeline.baselines import BaselineInbound, BaselineOutbound
from ..pipeline.edge import Edge
from ..pipeline.endpoint import Inbound, Outbound
from ..pipeline.lane import Lane
from ..pipeline.mpi_channel import MpiInbound, MpiOutbound
from .overlap_config import WITH_CHANNEL
from .overlap_link import wait_quietly
from .overlap_stretch import Stretch

_END_TIMEOUT_S = 60.0


def stream(stretch: Stretch) -> None:
    """Both ranks call it. Raises what a lane raised."""
    config, comm, halt, communication = stretch.config, stretch.comm, stretch.halt, stretch.communication
    with_channel = config.overlap in WITH_CHANNEL
    blocking = config.overlap == "blocking"
    job = stretch.edge or stretch.tail
    assert job is not None
    edge = Edge(0, 0, 1, job.tensors, job.max_message_bytes, eager_limit_bytes=config.eager_limit_bytes)
    inbound: Inbound
    outbound: Outbound
    if stretch.edge is not None:
        name, chain, services = "edge", stretch.edge_chain(), stretch.edge_services
        inbound = stretch.frames
        outbound = (
            MpiOutbound(edge, communication, halt, services)
            if with_channel
            else BaselineOutbound(comm, edge, halt, services, blocking=blocking)
        )
    else:
        name, chain, services = "tail", stretch.tail_chain(), stretch.tail_services
        outbound = stretch.results
        inbound = (
            MpiInbound(edge, communication, halt, services, stretch.round_trip_ns)
            if with_channel
            else BaselineInbound(comm, edge, halt, services, blocking=blocking)
        )
    lane = Lane(name, inbound, chain, outbound, halt)
    if with_channel:
        communication.start()
    lane.start()
    lane.join()
    if halt.error is not None:
        raise halt.error
    if not with_channel:
        wait_quietly(comm)
        return
    if stretch.watch is not None:
        stretch.watch.stop()
    communication.finish()
    communication.join(_END_TIMEOUT_S)
