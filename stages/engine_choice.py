"""`engine = auto`: the fastest engine and precision of this host that agrees with the bundle's golden frames.

Decided once per bundle and host by trials of the whole chain of graphs, whatever part of it a rank runs, so that every
placement gets the same answer; kept as JSON in a cache folder. Ranks that share a host take turns under a file lock, so
one of them makes the trials and the others read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydantic

from ..pipeline.errors import EngineError
from .bundle import Bundle
from .engine_trial import EngineTrial, try_engine
from .engines.registry import build_s_of, engine_kind, engine_offers


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine to take, and a trial per candidate; `str` of it is a table."""

    engine: str
    precision: str
    trials: tuple[EngineTrial, ...]

    @property
    def disagreement(self) -> str:
        """How far the engine is off the golden frames, one clause; empty unless it was asked for and is too far off."""
        return next(trial.disagreement for trial in self.trials if self._takes(trial))

    def __str__(self) -> str:
        rows = [("engine", "precision", "ms/frame", "wire error", "matched", "")]
        for trial in self.trials:
            seen = trial.agreement
            refusal = trial.failure or trial.disagreement
            verdict = f"refused: {refusal}" if refusal else ""
            if self._takes(trial):
                verdict = f"taken, though {refusal}" if refusal else "taken"
            rows.append(
                (
                    trial.engine,
                    trial.precision,
                    "-" if trial.chain_ns is None else f"{trial.chain_ns / 1e6:.2f}",
                    "-" if seen is None else f"{seen.wire_error:.1e}",
                    "-" if seen is None else f"{seen.num_matched}/{seen.num_detections}",
                    verdict,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _takes(self, trial: EngineTrial) -> bool:
        return (trial.engine, trial.precision) == (self.engine, self.precision)


def choose_engine(
    folder: str | os.PathLike[str],
    bundle: Bundle,
    *,
    threads: int,
    cache: Path,
    candidates: Sequence[tuple[str, str]] | None = None,
    timing_s: float = 2.0,
    trial_timeout_s: float = 300.0,
    lock_timeout_s: float = 900.0,
    on_trial: Callable[[str, str], None] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> EngineChoice:
    """The fastest of `candidates` (engine, precision) that agrees; by default all that `auto` tries and this host has.

    Trials run with `threads` threads: ranks that should get the same answer give the same number. `cache` is made if it is
    missing; where it cannot be written, nothing is kept. `on_trial` is told engine and precision before each trial, and
    `on_progress` what an engine says while it is built. Engines that are built (`EngineKind.build_s`) have that much longer.

    Raises EngineError: nothing to choose from; nothing agrees, with the reason of each; or another process has been
    deciding for longer than `lock_timeout_s`.
    """
    if candidates is None:
        offers = [offer for offer in engine_offers() if engine_kind(offer.engine).automatic]
        candidates = [(offer.engine, offer.precision) for offer in offers if not offer.missing]
        if not candidates:
            reasons = "; ".join(dict.fromkeys(f"{offer.engine}: {offer.missing}" for offer in offers))
            raise EngineError(f"this host has no engine to run a bundle's graphs ({reasons})")
    trials = _Trials(
        Path(folder), bundle, threads, timing_s, trial_timeout_s, lock_timeout_s, on_trial, on_progress=on_progress
    )
    made = trials.of(candidates, cache, keep=lambda trials: _fastest(trials) is not None)
    best = _fastest(made)
    if best is None:
        reasons = "; ".join(
            f"{trial.engine} {trial.precision}: {trial.failure or trial.disagreement}" for trial in made
        )
        raise EngineError(
            f"no engine of this host agrees with the golden frames of the bundle {folder} ({reasons}); "
            f"name one with --engine to take it all the same, or export the bundle again"
        )
    return EngineChoice(best.engine, best.precision, made)


def check_engine(
    folder: str | os.PathLike[str],
    bundle: Bundle,
    engine: str,
    precision: str,
    *,
    threads: int,
    cache: Path,
    timing_s: float = 2.0,
    trial_timeout_s: float = 300.0,
    lock_timeout_s: float = 900.0,
    device: str = "cpu",
    on_progress: Callable[[str], None] | None = None,
) -> EngineChoice:
    """The same for an engine that was asked for: taken even if it disagrees, which `EngineChoice.disagreement` tells.

    Raises EngineError: it is unknown or cannot run the bundle.
    """
    trials = _Trials(
        Path(folder), bundle, threads, timing_s, trial_timeout_s, lock_timeout_s, None, device, on_progress
    )
    made = trials.of([(engine, precision)], cache, keep=lambda trials: not trials[0].failure)
    if made[0].failure:
        raise EngineError(f"the engine {engine} in {precision} cannot run the bundle {folder}: {made[0].failure}")
    return EngineChoice(engine, precision, made)


class _Key(pydantic.BaseModel):
    """What trials hold for."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    bundle: str
    """`Bundle.graphs_checksum`."""
    host: str
    machine: str
    threads: int
    candidates: tuple[tuple[str, str, str], ...]
    """Engine, precision and version of the library."""
    device: str = "cpu"


class _Record(pydantic.BaseModel):
    """A file of the cache."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    key: _Key
    trials: tuple[EngineTrial, ...]


@dataclass(frozen=True, slots=True)
class _Trials:
    """Makes trials of a bundle on this host, or reads those made before."""

    folder: Path
    bundle: Bundle
    threads: int
    timing_s: float
    trial_timeout_s: float
    lock_timeout_s: float
    on_trial: Callable[[str, str], None] | None
    device: str = "cpu"
    on_progress: Callable[[str], None] | None = None

    def of(
        self, candidates: Sequence[tuple[str, str]], cache: Path, keep: Callable[[tuple[EngineTrial, ...]], bool]
    ) -> tuple[EngineTrial, ...]:
        """A trial per candidate. They are kept in `cache` only if `keep` says so: a failure may not last."""
        versions = {offer.engine: offer.version for offer in engine_offers()}
        key = _Key(
            bundle=self.bundle.graphs_checksum,
            host=platform.node(),
            machine=platform.machine(),
            threads=self.threads,
            candidates=tuple((engine, precision, versions.get(engine, "")) for engine, precision in candidates),
            device=self.device,
        )
        path = cache / f"engine-{hashlib.sha256(key.model_dump_json().encode()).hexdigest()[:24]}.json"
        with contextlib.ExitStack() as stack:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                timeout_s = self.lock_timeout_s + sum(build_s_of(engine) for engine, _ in candidates)
                _lock(stack.enter_context(path.with_suffix(".lock").open("a")), timeout_s)
            except OSError:
                return self._make(candidates)
            kept = _read(path, key)
            if kept is not None:
                return kept
            trials = self._make(candidates)
            if keep(trials):
                # A full disk must not stop a run.
                with contextlib.suppress(OSError):
                    partial = path.with_suffix(".partial")
                    partial.write_text(_Record(key=key, trials=trials).model_dump_json(indent=1), encoding="utf-8")
                    os.replace(partial, path)
            return trials

    def _make(self, candidates: Sequence[tuple[str, str]]) -> tuple[EngineTrial, ...]:
        trials = []
        for engine, precision in candidates:
            if self.on_trial is not None:
                self.on_trial(engine, precision)
            trials.append(
                try_engine(
                    self.folder,
                    engine,
                    precision,
                    threads=self.threads,
                    timing_s=self.timing_s,
                    timeout_s=self.trial_timeout_s + build_s_of(engine),
                    device=self.device,
                    width=self.bundle.width,
                    on_progress=self.on_progress,
                )
            )
        return tuple(trials)


def _fastest(trials: Sequence[EngineTrial]) -> EngineTrial | None:
    fit = [trial for trial in trials if not trial.failure and not trial.disagreement]
    return min(fit, key=lambda trial: trial.chain_ns or 0, default=None)


def _read(path: Path, key: _Key) -> tuple[EngineTrial, ...] | None:
    """The trials kept at `path`; None where there are none, or none that can be read."""
    try:
        record = _Record.model_validate_json(path.read_bytes())
    except (OSError, pydantic.ValidationError):
        return None
    return record.trials if record.key == key else None


def _lock(file: IO[str], timeout_s: float) -> None:
    """Wait for the lock on an open file; it goes with the file, also when the process dies.

    Raises EngineError after `timeout_s`; OSError where the file system has no locks.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"another process has been trying engines for more than {timeout_s:g} s (it holds {file.name}); "
                    f"end it, or name an engine with --engine"
                ) from None
            time.sleep(0.05)
