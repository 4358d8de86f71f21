"""What the far host of `TwoHosts` sees of this machine's files: everything but what is covered by an empty folder."""

from __future__ import annotations

import os
import shlex
import site
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..pipeline.errors import HostError

FAR_HOME = "/tmp/home"
FAR_PREFIX = "/tmp/prefix"
"""This interpreter's prefix without a space in its path."""


def kept_folders() -> set[Path]:
    """Folders that the interpreter and this package need, wherever they are."""
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).parent.parent)}
    if site.ENABLE_USER_SITE:
        folders.add(site.getuserbase())
    return {Path(folder).resolve() for folder in folders}


def far_mounts(hide: Iterable[Path], keep: Iterable[Path], folder: Path) -> str:
    """Shell lines that, in a mount namespace of their own, put an empty tmpfs over the temporary folders and `hide`.

    Folders of `keep` inside a covered one stay where they are. `folder`, in /tmp, is scratch space and empty at the end.
    Raises HostError where a folder of `hide` holds what the far host needs.
    """
    kept = {path.resolve() for path in keep}
    for path in (path.resolve() for path in hide):
        if path in kept or path == Path("/"):
            raise HostError(
                f"{path} cannot be hidden from the far host, which runs from there; give this run another folder"
            )
    temporary = {Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path(tempfile.gettempdir())}
    covers = sorted({path.resolve() for path in (*temporary, *hide)}, key=lambda path: len(path.parts))
    stage = folder / "stage"
    lines = [f"mkdir {_quote(stage)}"]
    for cover in covers:
        # The empty folder is furnished aside and then moved over the full one, from which it is furnished.
        lines += [f"if [ -d {_quote(cover)} ]; then", f"mount -t tmpfs -o mode=1777 tmpfs {_quote(stage)}"]
        for path in _outermost(path for path in kept if cover in path.parents):
            lines += _bind("--rbind", path, stage / path.relative_to(cover))
        if cover in folder.parents:
            lines += _bind("--bind", folder, stage / folder.relative_to(cover))
        lines += [f"mount --move {_quote(stage)} {_quote(cover)}", "fi"]
    lines += [f"umount {_quote(folder)}", f"mkdir {FAR_HOME}", f"ln -s {shlex.quote(sys.prefix)} {FAR_PREFIX}"]
    return "\n".join(lines) + "\n"


def _outermost(paths: Iterable[Path]) -> list[Path]:
    all_paths = set(paths)
    return sorted(path for path in all_paths if all_paths.isdisjoint(path.parents))


def _bind(how: str, source: Path, target: Path) -> list[str]:
    return [f"mkdir -p {_quote(target)}", f"mount {how} {_quote(source)} {_quote(target)}"]


def _quote(path: os.PathLike[str]) -> str:
    return shlex.quote(str(path))
