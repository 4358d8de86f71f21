"""Program of the MPI tests: a chain of ranks, each adding its number to the payload. Started by test_mpi_channel.py.

Rank 0 makes frames of varying size, the ranks between relay them, the last rank checks every byte, the order and the count,
and prints one JSON line.
"""

import json
import os
import sys
import time

import mpi4py

mpi4py.rc.initialize = False
mpi4py.rc.finalize = False

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402

from splitrail.launch.control import Control  # noqa: E402
from splitrail.pipeline.baselines import BaselineInbound, BaselineOutbound  # noqa: E402
from splitrail.pipeline.communication import Communication  # noqa: E402
from splitrail.pipeline.edge import Edge  # noqa: E402
from splitrail.pipeline.halt import Halt  # noqa: E402
from splitrail.pipeline.lane import Lane  # noqa: E402
from splitrail.pipeline.mpi_channel import MpiInbound, MpiOutbound  # noqa: E402
from splitrail.pipeline.observer import NullObserver  # noqa: E402
from splitrail.pipeline.packet import Kind, Packet  # noqa: E402
from splitrail.pipeline.stage import Chain  # noqa: E402

options = {
    "overlap": "full",
    "num": 50,
    "bytes": 300_000,
    "fail_rank": -1,
    "fail_how": "raise",
    "slow_rank": -1,
    "pieces": 0,
}
options |= json.loads(sys.argv[1])
MPI.Init_thread(MPI.THREAD_MULTIPLE)
comm = MPI.COMM_WORLD
rank, last = comm.rank, comm.size - 1


def payload_of(frame):
    return np.random.default_rng(frame).integers(0, 200, 1 + (frame * 7919) % options["bytes"], np.uint8)


class Frames:
    def __init__(self):
        self.next = 0

    def receive(self):
        if self.next == options["num"]:
            return None
        frame, self.next = self.next, self.next + 1
        packet = Packet(frame, frame, frame, (1, 1), tensors={"x": payload_of(frame), "y": np.full(3, frame, np.int64)})
        if frame % 10 == 3:
            packet.empty()
        if frame % 10 == 7:
            packet.fail(f"no {frame}")
        return packet

    def close(self):
        pass


def broken(num_bytes, peer):
    raise RuntimeError("broken on purpose")


class Add:
    name = "add"

    def process(self, packet):
        if rank == options["fail_rank"] and packet.frame == options["num"] // 2:
            if options["fail_how"] == "kill":
                os.kill(os.getpid(), 9)
            if options["fail_how"] == "callback":
                communication.post_receive(np.empty(8, np.uint8), rank, 900, broken)
                communication.post_send(np.zeros(8, np.uint8), rank, 900, lambda *_: None)
                return
            raise RuntimeError("broken on purpose")
        if rank == options["slow_rank"]:
            time.sleep(0.01)
        packet.tensors["x"] = packet.tensors["x"] + np.uint8(1)

    def close(self):
        pass


class Check:
    def __init__(self):
        self.kinds = []

    def reserve(self, packet, specs):
        return None

    def send(self, packet):
        frame = packet.frame
        assert frame == len(self.kinds), (frame, len(self.kinds))
        if packet.kind is Kind.FRAME:
            np.testing.assert_array_equal(packet.tensors["x"], payload_of(frame) + np.uint8(comm.size))
            assert packet.tensors["y"].tolist() == [frame] * 3
        elif packet.kind is Kind.FAILED:
            assert packet.reason == f"no {frame}"
        self.kinds.append(packet.kind.name)
        packet.release()

    def close(self):
        pass


halt, watcher = Halt(), NullObserver()
communication = Communication(comm, halt)
journal = []
control = Control(communication, rank, comm.size, f"host{rank}", halt, lambda sender, data: journal.append(data))
names = ("x", "y")


def edge(sender):
    return Edge(sender, sender, sender + 1, names, options["bytes"] + 4096, payload_crc=True)


full, blocking = options["overlap"] == "full", options["overlap"] == "blocking"
check = Check()
if rank == 0:
    inbound = Frames()
elif full:
    inbound = MpiInbound(edge(rank - 1), communication, halt, watcher, 100_000)
else:
    inbound = BaselineInbound(comm, edge(rank - 1), halt, watcher, blocking=blocking)
if rank == last:
    outbound = check
elif full:
    outbound = MpiOutbound(edge(rank), communication, halt, watcher)
else:
    outbound = BaselineOutbound(comm, edge(rank), halt, watcher, blocking=blocking)
lane = Lane(f"lane{rank}", inbound, Chain([Add()], watcher), outbound, halt)
comm.Barrier()
if full:
    communication.start()
lane.start()
assert lane.join(60), lane.state()
if halt.error is not None:
    if full:
        time.sleep(0.2)
        print(json.dumps({"rank": rank, "first": control.first}), flush=True)
        time.sleep(0.5)
    os._exit(1)
if rank > 0:
    for piece in range(options["pieces"]):
        control.ship_journal(b"%d of rank %d\n" % (piece, rank))
communication.finish()
assert communication.join(30) or not full
comm.Barrier()
if rank == 0 and options["pieces"]:
    print(json.dumps({"num_pieces": len(set(journal))}), flush=True)
if rank == last:
    print(json.dumps({name: check.kinds.count(name) for name in ("FRAME", "EMPTY", "FAILED")}), flush=True)
MPI.Finalize()
