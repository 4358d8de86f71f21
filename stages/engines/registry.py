"""Which engines there are, which of them this host has, and how one is opened."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...pipeline.errors import EngineError
from ..bundle import Bundle
from ..engine import Engine


class EngineOpener(Protocol):
    """A function that loads one graph of a bundle with the named outputs only."""

    def __call__(
        self,
        folder: Path,
        bundle: Bundle,
        stage_index: int,
        *,
        outputs: Sequence[str],
        threads: int,
        precision: str,
        device: str,
    ) -> Engine: ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine that can be asked for by name."""

    name: str
    opener: str
    """Where its `EngineOpener` is, as "package.module:function": imported when asked for, also in other processes."""
    module: str
    """The module of the library it needs."""
    extra: str
    """The extra of this package that installs that library."""
    precisions: tuple[str, ...]
    """Of `agreement.TOLERANCES`."""
    automatic: bool = True
    """Whether `engine = auto` tries it."""
    obstacle: str = ""
    """What tells why this host cannot run it though the library is there, as "package.module:function"; it returns one
    clause, empty where nothing is missing."""
    build_s: float = 0.0
    """How long it may take to build what it runs before the first frame, s, over all graphs of a bundle."""


@dataclass(frozen=True, slots=True)
class EngineOffer:
    """An engine at a precision, on this host."""

    engine: str
    precision: str
    version: str
    """Of its library; empty where that is missing."""
    missing: str = ""
    """Why this host does not have it, with the remedy; empty where it does."""


_PACKAGE = __name__.rpartition(".")[0]
_kinds: dict[str, EngineKind] = {}


def register_engine(kind: EngineKind) -> None:
    """Make an engine known in this process; one of the same name is replaced."""
    _kinds[kind.name] = kind


register_engine(
    EngineKind("onnxruntime", f"{_PACKAGE}.onnxruntime:open_engine", "onnxruntime", "onnxruntime", ("fp32",))
)
register_engine(EngineKind("openvino", f"{_PACKAGE}.openvino:open_engine", "openvino", "openvino", ("fp32", "bf16")))
register_engine(
    EngineKind(
        "tensorrt",
        f"{_PACKAGE}.tensorrt.engine:open_engine",
        "tensorrt",
        "tensorrt",
        ("fp32", "fp16", "int8"),
        obstacle=f"{_PACKAGE}.cuda_devices:why_no_tensorrt",
        build_s=3600.0,
    )
)


def engine_kind(name: str) -> EngineKind:
    """The registered engine of that name. Raises EngineError naming those there are."""
    kind = _kinds.get(name)
    if kind is None:
        raise EngineError(f"there is no engine [{name}]; take one of {', '.join(sorted(_kinds))}")
    return kind


def build_s_of(name: str) -> float:
    """`EngineKind.build_s` of an engine; 0 for one that is not registered."""
    kind = _kinds.get(name)
    return 0.0 if kind is None else kind.build_s


def engine_offers() -> list[EngineOffer]:
    """Every registered engine at every precision, with the reason where this host lacks it. Imports none of them."""
    offers = []
    for kind in _kinds.values():
        version = _version(kind.module)
        obstacle = _called(kind.obstacle) if version and kind.obstacle else ""
        for precision in kind.precisions:
            missing = ""
            if not version:
                missing = f"not installed: pip install 'splitrail[{kind.extra}]'"
            elif obstacle:
                missing = obstacle
            elif precision == "bf16" and not _cpu_has_bf16():
                missing = "this CPU has no bf16 instructions"
            offers.append(EngineOffer(kind.name, precision, version, missing))
    return offers


def available_engines() -> list[tuple[str, str]]:
    """Engine and precision of each offer that this host has."""
    return [(offer.engine, offer.precision) for offer in engine_offers() if not offer.missing]


def open_engine(
    name: str,
    precision: str,
    folder: Path,
    bundle: Bundle,
    stage_index: int,
    outputs: Sequence[str],
    threads: int,
    device: str = "cpu",
) -> Engine:
    """Load the graph of `bundle.stages[stage_index]` with `outputs` (`network.outputs_of`).

    `device` is for engines that run on several. Raises EngineError: no such engine, its library is missing, the precision
    is not for this host, or it refuses the graph.
    """
    kind = engine_kind(name)
    try:
        opener: EngineOpener = _found(kind.opener)
    except ImportError as error:
        raise EngineError(
            f"the engine {name} does not import ({error}): pip install 'splitrail[{kind.extra}]'"
        ) from error
    return opener(folder, bundle, stage_index, outputs=outputs, threads=threads, precision=precision, device=device)


def _found(place: str) -> Any:
    """The function at "package.module:function". Raises ImportError."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def _called(place: str) -> str:
    return str(_found(place)())


def _version(module: str) -> str:
    """Version of the library that has the module, "unknown" if it does not tell, empty if it is missing."""
    if importlib.util.find_spec(module) is None:
        return ""
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        # Installed under another name (onnxruntime-gpu). Slow: this reads every distribution.
        names = importlib.metadata.packages_distributions().get(module)
        return importlib.metadata.version(names[0]) if names else "unknown"


def _cpu_has_bf16() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    words = set(text.split())
    # Two flags on x86, one on aarch64; emulated bf16 is slower than fp32.
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
