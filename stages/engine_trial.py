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
    folder: Path, engine: str, precision: str, *, threads: int, timing_s: float, timeout_s: float
) -> EngineTrial:
    """Load all graphs of the bundle in `folder`, compare, and time them for at most about `timing_s` (five frames at least).

    Never raises for what the engine does; `failure` tells. Raises EngineError for an engine that is not registered.
    """
    task = {
        "folder": str(folder),
        "kind": asdict(engine_kind(engine)),
        "precision": precision,
        "threads": threads,
        "timing_s": timing_s,
    }
    # The modules an engine may be registered from are found where this process finds them.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # Nothing is ever written to this pipe: the trial ends itself when it closes, be this process killed.
    lifeline, held = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps(task)],
            stdin=lifeline,
            capture_output=True,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return EngineTrial(engine=engine, precision=precision, failure=f"it took longer than {timeout_s:g} s")
    finally:
        os.close(lifeline)
        os.close(held)
    try:
        # Libraries may print lines of their own first.
        return EngineTrial.model_validate_json(done.stdout.splitlines()[-1])
    except (IndexError, pydantic.ValidationError):
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        cause = f"ended on signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
        return EngineTrial(engine=engine, precision=precision, failure=f"its trial {cause}: {last}".rstrip(": "))


def run_trial(folder: Path, engine: str, precision: str, *, threads: int, timing_s: float) -> EngineTrial:
    """The trial itself, in this process."""
    bundle = Bundle.load(folder, verify=False)
    chain: list[tuple[Engine, tuple[str, ...], tuple[str, ...]]] = []
    try:
        for index, stage in enumerate(bundle.stages):
            outputs = outputs_of(stage, None)
            loaded = open_engine(engine, precision, folder, bundle, index, outputs, threads)
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
        Path(task["folder"]), kind.name, task["precision"], threads=task["threads"], timing_s=task["timing_s"]
    )
    print(trial.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
