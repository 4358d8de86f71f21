"""A process that times graphs: `python -m splitrail.bench.profile_worker JSON`.

It loads what it is asked for and prints `ready`; for each line `SECONDS MIN_FRAMES` on its standard input it computes the graphs
one after the other, frame by frame, for so long, and prints the service times. Two of them at work together are two ranks that
share a machine. Ends when its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from ..pipeline.clock import now_ns
from ..pipeline.errors import EngineError, SplitrailError
from ..pipeline.packet import Array, Packet
from ..stages.bundle import Bundle, WireType
from ..stages.engines.registry import EngineKind, build_s_of, engine_kind, open_engine, register_engine
from ..stages.network import Network, outputs_of

READY = "ready"
_LOAD_TIMEOUT_S = 120.0
_NUM_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class GraphTask:
    """Graphs to time."""

    folder: str
    engine: str
    precision: str
    device: str
    threads: int
    graphs: tuple[tuple[str, WireType], ...]
    """Graph, GRAPH@0.25 at a narrower width, and what it ends in. Frames go through all of them in turn, each with its own
    inputs, so that a slow minute of the machine meets them alike."""


class GraphWorker:
    """The process, from `with` to its end."""

    def __init__(self, task: GraphTask) -> None:
        self._task = task

    def __enter__(self) -> GraphWorker:
        """Start and load. Raises EngineError."""
        given = {"task": asdict(self._task), "kind": asdict(engine_kind(self._task.engine))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(_LOAD_TIMEOUT_S + build_s_of(self._task.engine), self._process.kill)
        self._timer.start()
        try:
            first = self._line()
            if first != READY:
                raise EngineError(first or f"the engine {self._task.engine} ended without a word; try another --engine")
        except BaseException:
            # Interrupted here, the timer would hold this process until it is due.
            self.__exit__()
            raise
        self._timer.cancel()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.communicate()

    def go(self, seconds: float, min_frames: int = 1) -> None:
        """Begin to compute: for so long, and at least so many frames."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{seconds} {min_frames}\n")
            self._process.stdin.flush()

    def times_ms(self) -> list[list[float]]:
        """Service times of each graph of the task, once it has computed for so long. Raises EngineError."""
        line = self._line()
        if not line.startswith("["):
            raise EngineError(line or f"the engine {self._task.engine} ended without a word; try another --engine")
        times: list[list[float]] = json.loads(line)
        return times

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _load(task: GraphTask) -> Callable[[float, int], list[list[float]]]:
    """Load all and warm up; what is returned computes."""
    whole = Bundle.load(task.folder, verify=False)
    names = [stage.name for stage in whole.stages]
    golden: dict[float, list[dict[str, Array]]] = {}
    networks = []
    for graph, form in task.graphs:
        name, _, width = graph.partition("@")
        bundle = whole.at_width(float(width) if width else whole.widths[-1])
        if bundle.width not in golden:
            golden[bundle.width] = bundle.golden_frames(task.folder)
        index = names.index(name)
        stage = bundle.stages[index]
        wire = form if stage.wire_tensors else None
        outputs = outputs_of(stage, wire)
        engine = open_engine(
            task.engine, task.precision, Path(task.folder), bundle, index, outputs, task.threads, task.device
        )
        inputs = {tensor.name for tensor in stage.inputs} - {"valid_size"}
        networks.append((Network(engine, stage, wire), inputs, golden[bundle.width]))

    def compute(seconds: float, min_frames: int) -> list[list[float]]:
        times: list[list[float]] = [[] for _ in networks]
        end = time.monotonic() + seconds
        number = 0
        while number < min_frames or time.monotonic() < end:
            for (network, inputs, frames), own in zip(networks, times, strict=True):
                frame = frames[number % len(frames)]
                height, width = (int(side) for side in frame["valid_size"])
                tensors: dict[str, Array] = {name: frame[name] for name in inputs}
                packet = Packet(number, 0, 0, (height, width), (height, width), tensors)
                begin = now_ns()
                network.process(packet)
                own.append((now_ns() - begin) / 1e6)
            number += 1
        return times

    compute(0.0, _NUM_WARM_UP)
    return compute


def main() -> None:
    """Entry of the process."""
    given = json.loads(sys.argv[1])
    register_engine(EngineKind(**given["kind"]))
    task = GraphTask(**{**given["task"], "graphs": tuple(map(tuple, given["task"]["graphs"]))})
    cv2.setNumThreads(task.threads)
    try:
        compute = _load(task)
        print(READY, flush=True)
        for line in sys.stdin:
            seconds, min_frames = line.split()
            print(json.dumps(compute(float(seconds), int(min_frames))), flush=True)
    except SplitrailError as error:
        print(error, flush=True)


if __name__ == "__main__":
    main()
