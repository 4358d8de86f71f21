"""A rank that says who it is, then waits for SIGUSR1, or does what its argument says."""

import json
import os
import signal
import socket
import sys
import time

stopped = []
signal.signal(signal.SIGUSR1, lambda *_: stopped.append(True))

from mpi4py import MPI  # noqa: E402

rank = MPI.COMM_WORLD.rank
print(json.dumps({"rank": rank, "pid": os.getpid(), "host": socket.gethostname()}), flush=True)
verb = sys.argv[1] if rank == 1 else "wait"
if verb == "abort":
    MPI.COMM_WORLD.Abort(3)
if verb == "exit":
    os._exit(5)
if verb == "complain":
    print("rank 1 has a complaint", file=sys.stderr, flush=True)
deadline = time.monotonic() + 30
while not stopped and time.monotonic() < deadline:
    time.sleep(0.02)
MPI.COMM_WORLD.Barrier()
print(json.dumps({"rank": rank, "stopped": bool(stopped)}), flush=True)
