"""A bundle reaches every rank: checksums are compared, and rank 0 sends what a host does not have to a cache there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ..pipeline.errors import BundleError
from ..stages.bundle import MANIFEST, Bundle
from ..stages.cache import cache_folder
from .config import bundle_folder
from .exchange import broadcast_bytes, receive_bytes, send_bytes, together

_SHOWN = 12
"""Digits of a checksum that are shown: a version's name."""


def share_bundle(comm: MPI.Comm, name: str) -> tuple[Path, Bundle, bool]:
    """Folder of the bundle on this rank's host, the bundle, and whether it had to be sent here.

    `name` counts on rank 0 only. Raises on every rank, BundleError on one of them, when rank 0 has no such bundle, or another
    host has another version of it at the same place.
    """
    folder: Path | None = None
    found: Bundle | None = None

    def load() -> None:
        nonlocal folder, found
        if comm.rank == 0:
            folder = bundle_folder(name)
            found = Bundle.load(folder)

    together(comm, load)
    wanted = json.loads(
        broadcast_bytes(
            comm,
            json.dumps({"name": name, "folder": str(folder), "checksum": found.checksum}).encode() if found else None,
        )
    )

    def look() -> None:
        nonlocal folder, found
        if comm.rank != 0:
            folder, found = _find(wanted["name"], wanted["folder"], wanted["checksum"])

    together(comm, look)
    missing = np.zeros(comm.size, np.int64)
    missing[comm.rank] = found is None
    comm.Allreduce(MPI.IN_PLACE, missing)
    receivers = [int(rank) for rank in np.flatnonzero(missing)]

    def read() -> dict[str, bytes]:
        return _files(folder) if folder is not None and comm.rank == 0 and receivers else {}

    # Read before anything is sent: a rank that waits for the rest of a file cannot be told of an error.
    files = together(comm, read)

    def transfer() -> None:
        nonlocal folder, found
        if comm.rank == 0:
            for receiver in receivers:
                _send(comm, files, receiver)
        elif found is None:
            folder, found = _receive(comm, wanted["checksum"])

    together(comm, transfer)
    assert folder is not None
    assert found is not None
    return folder, found, comm.rank in receivers


def _find(name: str, folder: str, checksum: str) -> tuple[Path | None, Bundle | None]:
    """This host's copy; None where it has none. Raises BundleError: what it has there is another version.

    An older copy would not be used anyway; told of it, nobody takes its accuracies or thresholds for those of the run.
    """
    for candidate in dict.fromkeys((Path(folder), bundle_folder(name))):
        try:
            bundle = Bundle.load(candidate)
        except BundleError:
            continue
        if bundle.checksum == checksum:
            return candidate, bundle
        raise BundleError(
            f"{candidate} is version {bundle.checksum[:_SHOWN]} of the bundle here and {checksum[:_SHOWN]} on rank 0; copy one "
            f"over the other, or remove the one here and it is sent"
        )
    try:
        return _cached(checksum), _of(_cached(checksum), checksum)
    except BundleError:
        return None, None


def _of(folder: Path, checksum: str) -> Bundle:
    """The bundle in `folder`, if it is the one with that checksum."""
    bundle = Bundle.load(folder)
    if bundle.checksum != checksum:
        raise BundleError(f"{folder} holds another bundle")
    return bundle


def _cached(checksum: str) -> Path:
    return cache_folder() / "bundles" / checksum


def _files(folder: Path) -> dict[str, bytes]:
    names = [MANIFEST, *Bundle.load(folder, verify=False).checksums()]
    try:
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise BundleError(f"the bundle at {folder} cannot be read ({error.strerror}); copy it again") from error


def _send(comm: MPI.Comm, files: Mapping[str, bytes], receiver: int) -> None:
    send_bytes(comm, json.dumps(list(files)).encode(), receiver)
    for data in files.values():
        send_bytes(comm, data, receiver)


def _receive(comm: MPI.Comm, checksum: str) -> tuple[Path, Bundle]:
    names = json.loads(receive_bytes(comm, 0))
    files = {name: receive_bytes(comm, 0) for name in names}
    target = _cached(checksum)
    partial: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{checksum[:12]}.partial-", dir=target.parent))
        for name, data in files.items():
            if Path(name).name != name:
                raise BundleError(f"the bundle names a file outside its folder: {name!r}; export the bundle again")
            (partial / name).write_bytes(data)
        bundle = Bundle.load(partial)
        if bundle.checksum != checksum:
            raise BundleError("the bundle that rank 0 sent is not the one it announced; start the run again")
        try:
            os.replace(partial, target)
        except OSError:
            # Another rank of this host was faster, or what lies there is a damaged copy.
            if not _is_whole(target, checksum):
                shutil.rmtree(target, ignore_errors=True)
                os.replace(partial, target)
        return target, bundle
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be kept in {target.parent} ({error.strerror}); free space there or set XDG_CACHE_HOME"
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _is_whole(folder: Path, checksum: str) -> bool:
    try:
        _of(folder, checksum)
    except BundleError:
        return False
    return True
