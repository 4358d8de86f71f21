"""Two ranks that share a bundle; rank 1 sees another folder in its place, as a second host would. Both print what they have."""

import ctypes
import subprocess
import sys

from mpi4py import MPI

from splitrail.launch.bundle_exchange import share_bundle
from splitrail.pipeline.errors import SplitrailError

CLONE_NEWNS = 0x20000
folder, elsewhere = sys.argv[1:]
comm = MPI.COMM_WORLD
if comm.rank == 1:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", elsewhere, folder], check=True)
try:
    place, bundle, was_sent = share_bundle(comm, folder)
except SplitrailError as error:
    print(f"rank {comm.rank}: {type(error).__name__}: {error}", flush=True)
else:
    print(f"rank {comm.rank}: {bundle.checksum} {was_sent} {place}", flush=True)
