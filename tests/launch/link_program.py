"""Two ranks that measure the link between them; rank 0 prints one JSON line."""

import json
import os
import socket
import sys
import time

from mpi4py import MPI

ROUND_TRIPS = 20
num_bytes, num_messages = int(sys.argv[1]), int(sys.argv[2])
looked_for = sys.argv[3:]
comm = MPI.COMM_WORLD
other = 1 - comm.rank
small, large, acknowledgement = bytearray(8), bytearray(num_bytes), bytearray(1)
times_s = []
for _ in range(ROUND_TRIPS):
    begin = time.monotonic()
    if comm.rank == 0:
        comm.Send(small, other)
        comm.Recv(small, other)
        times_s.append(time.monotonic() - begin)
    else:
        comm.Recv(small, other)
        comm.Send(small, other)
begin = time.monotonic()
if comm.rank == 0:
    for request in [comm.Isend(large, other) for _ in range(num_messages)]:
        request.Wait()
    comm.Recv(acknowledgement, other)
else:
    for request in [comm.Irecv(bytearray(num_bytes), other) for _ in range(num_messages)]:
        request.Wait()
    comm.Send(acknowledgement, other)
elapsed_s = time.monotonic() - begin
mine = {
    "host": socket.gethostname(),
    "sees": [path for path in looked_for if os.path.exists(path)],
    "environment": sorted(os.environ),
}
both = comm.gather(mine)
if comm.rank == 0:
    round_trip_ms = sorted(times_s)[ROUND_TRIPS // 2] * 1e3
    rate = num_bytes * num_messages * 8 / elapsed_s
    print(json.dumps({"round_trip_ms": round_trip_ms, "rate_bit_per_s": rate, "ranks": both}))
