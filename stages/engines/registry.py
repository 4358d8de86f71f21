"""Which engines there are, which of them this host has, and how one is opened."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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


def engine_kind(name: str) -> EngineKind:
    """The registered engine of that name. Raises EngineError naming those there are."""
    kind = _kinds.get(name)
    if kind is None:
        raise EngineError(f"there is no engine [{name}]; take one of {', '.join(sorted(_kinds))}")
    return kind


def engine_offers() -> list[EngineOffer]:
    """Every registered engine at every precision, with the reason where this host lacks it. Imports none of them."""
    offers = []
    for kind in _kinds.values():
        version = _version(kind.module)
        for precision in kind.precisions:
            missing = ""
            if not version:
                missing = f"not installed: pip install 'splitrail[{kind.extra}]'"
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
    module, _, function = kind.opener.partition(":")
    try:
        opener: EngineOpener = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise EngineError(
            f"the engine {name} does not import ({error}): pip install 'splitrail[{kind.extra}]'"
        ) from error
    return opener(folder, bundle, stage_index, outputs=outputs, threads=threads, precision=precision, device=device)


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
