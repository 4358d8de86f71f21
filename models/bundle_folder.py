"""A bundle's folder in the making: it appears as a whole, or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..pipeline.errors import BundleError
from ..pipeline.packet import Array
from ..stages.bundle import MANIFEST


@contextmanager
def new_bundle_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write a bundle's files into, which becomes `out`, or replaces it, when all went well.

    Raises BundleError: `out` cannot be written, or is something else than a bundle.
    """
    target = Path(out).resolve()
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(f"{target} is there already and is no bundle; give another folder, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"no bundle can be written to {target} ({error.strerror}); give another folder") from error
    try:
        yield partial
        _publish(partial, target)
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be written to {target} ({error.strerror}); make room or give another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_golden(path: Path, golden: Sequence[Mapping[str, Array]]) -> None:
    """An .npz without times in it: the same detector exported twice is the same bundle. Names may end in "@WIDTH"."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, arrays in enumerate(golden):
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{index}/{name}.npy"), content.getvalue())


def load_golden(path: Path, num_frames: int) -> list[dict[str, Array]]:
    """What `save_golden` has written, under the same names."""
    golden: list[dict[str, Array]] = [{} for _ in range(num_frames)]
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            index, _, name = key.partition("/")
            golden[int(index)][name] = arrays[key]
    return golden


def _publish(partial: Path, target: Path) -> None:
    """Rename the finished folder, and what it replaces out of the way; all of it readable by everybody."""
    for file in partial.iterdir():
        file.chmod(0o644)
    partial.chmod(0o755)
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        os.rename(target, old)
        os.rename(partial, target)
        shutil.rmtree(old)
    else:
        os.rename(partial, target)
