"""Built engines between runs: one file an engine, found by everything that a build depends on.

A plan holds for one version of TensorRT and one kind of GPU only, and building one takes seconds to an hour. A file is
one line of JSON, which says what it was built from and its checksum, and the plan behind it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ....pipeline.errors import EngineError

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What a plan depends on."""

    onnx_sha256: str
    """Of the model that is parsed, cut down to the outputs that are needed."""
    tensorrt: str
    """Version."""
    gpu: str
    capability: str
    """Like "8.7"."""
    precision: str
    shapes: Mapping[str, tuple[int | str, ...]]
    """Input name -> shape."""
    calibration_sha256: str
    """Of the golden frames, where int8 is measured on them; else empty."""

    @property
    def digest(self) -> str:
        """Part of the file's name."""
        return hashlib.sha256(json.dumps(self._json(), sort_keys=True).encode()).hexdigest()[:24]

    def header(self, plan: bytes) -> dict[str, object]:
        """The first line of the file."""
        return {"schema": _SCHEMA, "plan_sha256": hashlib.sha256(plan).hexdigest(), "key": self._json()}

    def _json(self) -> dict[str, object]:
        return {**asdict(self), "shapes": {name: list(shape) for name, shape in self.shapes.items()}}


class EngineCache:
    """Plans in a folder, which is made when the first one is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str, key: EngineKey) -> Path:
        """Where the plan of a graph called `name` lies."""
        return self._folder / f"{name}-{key.precision}-{key.digest}.plan"

    def load(self, name: str, key: EngineKey) -> bytes | None:
        """The plan; None where there is none, or a damaged one.

        Raises EngineError: the file is another engine's, copied or renamed.
        """
        path = self.path(name, key)
        try:
            first, _, plan = path.read_bytes().partition(b"\n")
            header = json.loads(first)
            if header["plan_sha256"] != hashlib.sha256(plan).hexdigest():
                return None
            built = header["key"]
            if header != key.header(plan):
                raise EngineError(
                    f"the engine {path} was built by TensorRT {built['tensorrt']} for {built['gpu']} in {built['precision']} "
                    f"and this host has TensorRT {key.tensorrt} on {key.gpu}; delete that file, and it is built again"
                )
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return plan

    def keep(self, name: str, key: EngineKey, plan: bytes) -> None:
        """Write the plan, whole or not at all; a folder that cannot be written stops nothing."""
        path = self.path(name, key)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with contextlib.suppress(OSError):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    file.write(json.dumps(key.header(plan)).encode() + b"\n")
                    file.write(plan)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def turn(self, name: str, key: EngineKey) -> Iterator[None]:
        """Held while an engine is looked for and built: ranks that share a host build it once. Ends with the process."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = self.path(name, key).with_suffix(".lock").open("a")
        except OSError:
            yield
            return
        with lock:
            # A file system without locks: then two ranks may both build, and the last one's file stays.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
