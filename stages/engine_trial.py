"""One engine at one precision on a whole bundle: does it agree with the golden frames, and how long does a frame take?

`try_engine` runs it in a process of its own (`python -m splitrail.stages.engine_trial`): what it loads is gone afterwards, it
has a time limit, and a library that crashes on this CPU ends its trial only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydantic

from ..pipeline.clock import now_ns
from ..pipeline.errors import SplitrailError
from ..pipeline.packet import Array
from .agreement import Agreement, agreement_of
from .bundle import Bundle
from .engine import Engine
from .engines.progress import MARK
from .engines.registry import EngineKind, engine_kind, open_engine, register_engine
from .network import outputs_of

MIN_RUNS = 5
MAX_RUNS = 500


class EngineTrial(pydantic.BaseModel):
    """What became of a trial."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    engine: str
    precision: str
    chain_ns: int | None = None
    """Median time of one frame through all graphs of the bundle, ns; None where it could not be timed."""
    num_runs: int = 0
    """How many frames were timed, after the golden frames as warm-up."""
    agreement: Agreement | None = None
    failure: str = ""
    """Why it could not run at all; empty when it could."""

    @property
    def disagreement(self) -> str:
        """How far it is off the golden frames, one clause; empty when it agrees, or failed."""
        return self.agreement.disagreement if self.agreement is not None else ""


def try_engine(
    folder: Path,
    engine: str,
    precision: str,
    *,
    threads: int,
    timing_s: float,
    timeout_s: float,
    device: str = "cpu",
    width: float = 1.0,
    on_progress: Callable[[str], None] | None = None,
) -> EngineTrial:
    """Load all graphs of the bundle in `folder`, at one of its widths, compare, and time them for at most about `timing_s` (five
    frames at least).

    `device` is for engines that run on several. `on_progress` is told, from another thread, what an engine says while it
    takes its time to open.

    Never raises for what the engine does; `failure` tells. Raises EngineError for an engine that is not registered.
    """
    task = {
        "folder": str(folder),
        "kind": asdict(engine_kind(engine)),
        "precision": precision,
        "threads": threads,
        "timing_s": timing_s,
        "device": device,
        "width": width,
    }
    # The modules an engine may be registered from are found where this process finds them.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # Nothing is ever written to this pipe: the trial ends itself when it closes, be this process killed.
    lifeline, held = os.pipe()
    complaints, said = os.pipe()
    listener = _Listener(complaints, on_progress)
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(task)],
            stdin=lifeline,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return EngineTrial(engine=engine, precision=precision, failure=f"it took longer than {timeout_s:g} s")
    finally:
        os.close(lifeline)
        os.close(held)
        os.close(said)
        listener.join()
    try:
        # Libraries may print lines of their own first.
        return EngineTrial.model_validate_json(done.stdout.splitlines()[-1])
    except (IndexError, pydantic.ValidationError):
        last = listener.last_line
        cause = f"ended on signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
        return EngineTrial(engine=engine, precision=precision, failure=f"its trial {cause}: {last}".rstrip(": "))


class _Listener:
    """Reads the standard error of a trial in a thread, until the last process that holds the other end is gone."""

    _END_S = 2.0

    def __init__(self, complaints: int, on_progress: Callable[[str], None] | None) -> None:
        self.last_line = ""
        """What the trial complained of last."""
        self._thread = threading.Thread(target=self._read, args=(complaints, on_progress), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Once the trial has ended: wait until all is read, but not for what it may have left running."""
        self._thread.join(self._END_S)

    def _read(self, complaints: int, on_progress: Callable[[str], None] | None) -> None:
        with open(complaints, encoding="utf-8", errors="replace") as lines:
            for line in map(str.strip, lines):
                if line.startswith(MARK):
                    if on_progress is not None:
                        on_progress(line.removeprefix(MARK))
                elif line:
                    self.last_line = line


def run_trial(
    folder: Path,
    engine: str,
    precision: str,
    *,
    threads: int,
    timing_s: float,
    device: str = "cpu",
    width: float = 1.0,
) -> EngineTrial:
    """The trial itself, in this process."""
    bundle = Bundle.load(folder, verify=False).at_width(width)
    chain: list[tuple[Engine, tuple[str, ...], tuple[str, ...]]] = []
    try:
        for index, stage in enumerate(bundle.stages):
            outputs = outputs_of(stage, None)
            loaded = open_engine(engine, precision, folder, bundle, index, outputs, threads, device)
            chain.append((loaded, tuple(tensor.name for tensor in stage.inputs), outputs))
        golden = bundle.golden_frames(folder)
        actual = [_run(chain, frame) for frame in golden]
        agreement = agreement_of(bundle, golden, actual, precision)
        times_ns: list[int] = []
        begin = now_ns()
        while len(times_ns) < MAX_RUNS and (len(times_ns) < MIN_RUNS or now_ns() - begin < timing_s * 1e9):
            frame_begin = now_ns()
            _run(chain, golden[0])
            times_ns.append(now_ns() - frame_begin)
    except SplitrailError as error:
        return EngineTrial(engine=engine, precision=precision, failure=str(error))
    finally:
        for loaded, _, _ in chain:
            loaded.close()
    return EngineTrial(
        engine=engine,
        precision=precision,
        chain_ns=int(np.median(times_ns)),
        num_runs=len(times_ns),
        agreement=agreement,
    )


def _run(chain: list[tuple[Engine, tuple[str, ...], tuple[str, ...]]], frame: dict[str, Array]) -> dict[str, Array]:
    """A golden frame's inputs through all graphs: every wire tensor and final output by name."""
    tensors = {name: frame[name] for name in ("pixels", "valid_size")}
    for engine, inputs, outputs in chain:
        tensors |= engine.run({name: tensors[name] for name in inputs}, outputs)
    return tensors


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Do the trial that the first argument describes and print its result as one line of JSON."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = json.loads(sys.argv[1])
    kind = EngineKind(**task["kind"])
    register_engine(kind)
    trial = run_trial(
        Path(task["folder"]),
        kind.name,
        task["precision"],
        threads=task["threads"],
        timing_s=task["timing_s"],
        device=task["device"],
        width=task["width"],
    )
    print(trial.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
