"""Files that a rank other than 0 wrote come back to rank 0's run folder at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from mpi4py import MPI

from ..pipeline.errors import SinkError
from .exchange import gather_json, receive_bytes, send_bytes

_PREFIX = "splitrail-rank"


def far_folder(rank: int) -> Path:
    """A new temporary folder for the outputs of a rank that is not rank 0; `collect_files` removes it."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{rank}-"))


def collect_files(comm: MPI.Comm, folder: Path, rank: int) -> None:
    """Bring every file below the other ranks' folders to the same place below rank 0's, then remove those folders."""
    names = [] if rank == 0 else [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    for sender, listed in enumerate(gather_json(comm, names)):
        for name in listed:
            if rank == sender:
                send_bytes(comm, (folder / name).read_bytes(), 0)
            elif rank == 0:
                _write(folder, name, receive_bytes(comm, sender))
    if rank != 0:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, name: str, data: bytes) -> None:
    target = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise SinkError(f"a far rank sent a file outside the run's folder: {name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, target)
