"""The stretch as one writes it after the first page of mpi4py's tutorial: `comm.send` of the arrays, pickled.

Here to be measured against the channel, never used by it. It is the only file that pickles, and it reads what the other rank
of the same bench wrote.
"""

from __future__ import annotations

from .overlap_frames import facts_of, packet_of
from .overlap_link import wait_quietly
from .overlap_stretch import Stretch


def stream(stretch: Stretch) -> None:
    """Both ranks call it. Raises what a stage raised."""
    comm = stretch.comm
    if stretch.edge is not None:
        chain = stretch.edge_chain()
        while (packet := stretch.frames.receive()) is not None:
            chain.process(packet)
            comm.send((facts_of(packet), packet.tensors), dest=1)
        comm.send(None, dest=1)
    else:
        chain = stretch.tail_chain()
        while (message := comm.recv(source=0)) is not None:
            packet = packet_of(*message)
            chain.process(packet)
            stretch.results.send(packet)
    wait_quietly(comm)
