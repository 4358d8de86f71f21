"""Files that a rank other than 0 wrote come back to rank 0's run folder at the end."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

from mpi4py import MPI

from ..pipeline.errors import SinkError
from .exchange import gather_json, receive_file, send_file

_PREFIX = "splitrail-rank"


def far_folder(rank: int) -> Path:
    """A new temporary folder for the outputs of a rank that is not rank 0; `collect_files` removes it. Raises SinkError."""
    try:
        return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{rank}-"))
    except OSError as error:
        raise SinkError(
            f"no temporary folder can be made on {socket.gethostname()} ({error.strerror}); make room there or set TMPDIR"
        ) from error


def collect_files(comm: MPI.Comm, folder: Path | None, rank: int) -> None:
    """Bring every file below the other ranks' folders to the same place below rank 0's, then remove those folders.

    `folder` is None on a rank that wrote nothing, never on rank 0. Raises SinkError.
    """
    names: list[str] = []
    if rank != 0 and folder is not None:
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    for sender, listed in enumerate(gather_json(comm, names)):
        for name in listed:
            if folder is not None and rank == sender:
                send_file(comm, folder / name, 0)
            elif folder is not None and rank == 0:
                _receive(comm, folder, name, sender)
    if rank != 0 and folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _receive(comm: MPI.Comm, folder: Path, name: str, sender: int) -> None:
    target = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise SinkError(f"a far rank sent a file outside the run's folder: {name!r}")
    partial = target.with_name(target.name + ".partial")
    error: OSError | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failed:
        error = failed
    error = receive_file(comm, partial, sender) or error
    if error is None:
        os.replace(partial, target)
        return
    partial.unlink(missing_ok=True)
    raise SinkError(f"{target} cannot be written ({error.strerror}); free space or give another --out") from error
