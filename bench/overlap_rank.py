"""One rank of the overlap bench: `mpirun -n 2 python -m splitrail.bench.overlap_rank JSON`.

Rank 0 computes and sends, rank 1 receives and computes, with test engines in place of networks: `sleep` waits as a GPU would
let it, `native` computes without the interpreter lock, `mix` adds 8 ms of Python to that. All else is the real thing: lanes,
chains and the channel that `--overlap` names. Rank 0 prints one JSON line.

    overlap efficiency = ideal / measured,  ideal = (n max(e, w, t) + e + w + t - max) / n  per frame

with e and t the stages' service times in this run (median) and w the frame's bytes over the raw TCP goodput of the same run: how
much of what could be hidden is hidden. Streaming also takes time from the stages where it shares their cores. `solo_efficiency`
is the same with the stages' solo times (both ranks at once, nothing streaming, before and after the run): what all of it costs.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mpi4py
import numpy as np

mpi4py.rc.initialize = False  # before MPI is imported: this program initialises it itself
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402

from ..pipeline.baselines import BaselineInbound, BaselineOutbound  # noqa: E402
from ..pipeline.clock import now_ns  # noqa: E402
from ..pipeline.communication import SWITCH_INTERVAL_S, Communication  # noqa: E402
from ..pipeline.edge import Edge  # noqa: E402
from ..pipeline.endpoint import Inbound, Outbound  # noqa: E402
from ..pipeline.errors import ConfigError  # noqa: E402
from ..pipeline.halt import Halt  # noqa: E402
from ..pipeline.lane import Lane  # noqa: E402
from ..pipeline.mpi_channel import MpiInbound, MpiOutbound  # noqa: E402
from ..pipeline.observer import NullObserver  # noqa: E402
from ..pipeline.packet import Array, Packet, TensorSpec  # noqa: E402
from ..pipeline.stage import Chain  # noqa: E402


@dataclass(frozen=True)
class OverlapConfig:
    """What one run does."""

    overlap: str = "full"
    engine: str = "sleep"
    stage_ms: float = 55.0
    frame_bytes: int = 6_963_200
    num_frames: int = 60
    eager_limit_bytes: int = 65_536
    address: str = "127.0.0.1"
    """Address of rank 1 on the link, for the raw TCP measurement."""


class TestEngine:
    """A stage of a fixed amount of work; as an edge stage it leaves a tensor of `frame_bytes`."""

    __test__ = False

    def __init__(self, name: str, kind: str, stage_ms: float, frame_bytes: int) -> None:
        self.name = name
        self._kind = kind
        self._stage_ms = stage_ms
        self._frame_bytes = frame_bytes
        self._matrix = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
        self._num_products = 0
        self._num_steps = 0
        if kind != "sleep":
            self._calibrate()

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """One uint8 tensor, or nothing for the last stage."""
        return (TensorSpec("payload", "uint8", (self._frame_bytes,)),) if self._frame_bytes else None

    def process(self, packet: Packet) -> None:
        """Do the work; write a few bytes of the payload, as an engine that binds its output would have."""
        self.work()
        if self._frame_bytes:
            tensors = packet.targets or {"payload": np.empty(self._frame_bytes, np.uint8)}
            payload: Array = tensors["payload"]
            payload[:: 1 << 16] = packet.frame % 251
            packet.tensors = dict(tensors)
        else:
            if int(packet.tensors["payload"][0]) != packet.frame % 251:
                raise RuntimeError(f"frame {packet.frame} arrived with the payload of another frame")
            packet.release()
            packet.tensors = {}

    def work(self) -> None:
        """The work alone."""
        if self._kind == "sleep":
            time.sleep(self._stage_ms / 1e3)
            return
        self._multiply(self._num_products)
        sum(1 for _ in range(self._num_steps))

    def close(self) -> None:
        """Nothing to free."""

    def _calibrate(self) -> None:
        python_ms = 8.0 if self._kind == "mix" else 0.0
        self._num_steps = _count(lambda n: sum(1 for _ in range(n)), python_ms, 20_000)
        self._num_products = _count(self._multiply, self._stage_ms - python_ms, 20)

    def _multiply(self, count: int) -> int:
        for _ in range(count):
            self._matrix @ self._matrix
        return count


def _count(work: Callable[[int], int], wanted_ms: float, probe: int) -> int:
    """So many steps take `wanted_ms`."""
    if wanted_ms <= 0:
        return 0
    times = []
    for _ in range(15):
        begin = now_ns()
        work(probe)
        times.append(now_ns() - begin)
    return max(1, round(probe * wanted_ms * 1e6 / statistics.median(times)))


class _Services(NullObserver):
    """Keeps the service times of the one stage of this rank."""

    def __init__(self) -> None:
        self.times_ms: list[float] = []

    def stage(self, name: str, frame: int, begin_ns: int, end_ns: int) -> None:
        self.times_ms.append((end_ns - begin_ns) / 1e6)


class _Frames:
    """Inbound of rank 0: numbers."""

    def __init__(self, num_frames: int) -> None:
        self._next = 0
        self._num_frames = num_frames

    def receive(self) -> Packet | None:
        if self._next == self._num_frames:
            return None
        self._next += 1
        return Packet(self._next - 1, now_ns(), 0, (1, 1))

    def close(self) -> None: ...


class _Count:
    """Outbound of rank 1: checks the order and keeps the times."""

    def __init__(self) -> None:
        self.times_ns: list[int] = []
        self.delays_ns: list[int] = []

    def reserve(self, packet: Packet, specs: tuple[TensorSpec, ...] | None) -> None:
        return None

    def send(self, packet: Packet) -> None:
        packet.release()
        if packet.frame != len(self.times_ns):
            raise RuntimeError(f"frame {packet.frame} came where {len(self.times_ns)} was due")
        self.times_ns.append(now_ns())
        self.delays_ns.append(now_ns() - packet.capture_ns)

    def close(self) -> None: ...


def raw_goodput(comm: MPI.Comm, address: str, num_bytes: int = 64 << 20, limit_s: float = 1.5) -> float:
    """Goodput of one TCP connection from rank 0 to rank 1 beside MPI, bytes/s, known on rank 1; 0.0 on rank 0.

    Rank 0 sends for `limit_s` or `num_bytes`, whichever ends first; rank 1 counts what it got after the first 10 %.
    """
    port = np.zeros(1, np.int64)
    if comm.rank == 1:
        with socket.create_server((address, 0)) as server:
            server.settimeout(20)
            port[0] = server.getsockname()[1]
            comm.Send(port, 0)
            connection, _ = server.accept()
            with connection:
                return _drain(connection)
    comm.Recv(port, 1, 0)
    block = bytes(1 << 18)
    with socket.create_connection((address, int(port[0])), timeout=20) as connection:
        end = time.monotonic() + limit_s
        sent = 0
        while sent < num_bytes and time.monotonic() < end:
            connection.sendall(block)
            sent += len(block)
    return 0.0


def _drain(connection: socket.socket) -> float:
    buffer = bytearray(1 << 20)
    marks = [(time.monotonic(), 0)]
    total = 0
    while received := connection.recv_into(buffer):
        total += received
        marks.append((time.monotonic(), total))
    first = next(mark for mark in marks if mark[1] >= total * 0.1)
    return (total - first[1]) / max(marks[-1][0] - first[0], 1e-9)


def solo_ms(engine: TestEngine, comm: MPI.Comm, num_runs: int = 9) -> float:
    """Median time of the engine's work alone, ms; both ranks measure at once because they may share a machine."""
    comm.Barrier()
    times = []
    for _ in range(num_runs):
        begin = now_ns()
        engine.work()
        times.append((now_ns() - begin) / 1e6)
    return statistics.median(times)


def run(config: OverlapConfig, comm: MPI.Comm) -> dict[str, object] | None:
    """One measurement; the result on rank 0, None on rank 1. Raises what a lane raised."""
    is_edge = comm.rank == 0
    comm.Barrier()  # both calibrate at once, as they will compute
    engine = TestEngine(
        "edge" if is_edge else "tail", config.engine, config.stage_ms, config.frame_bytes if is_edge else 0
    )
    before_ms = solo_ms(engine, comm)
    goodput = np.zeros(1)
    goodput[0] = raw_goodput(comm, config.address)
    comm.Allreduce(MPI.IN_PLACE, goodput)
    round_trip_ns = measure_round_trip(comm)

    halt = Halt()
    observer = _Services()
    edge = Edge(0, 0, 1, ("payload",), config.frame_bytes, eager_limit_bytes=config.eager_limit_bytes)
    communication = Communication(comm, halt)
    blocking = config.overlap == "blocking"
    frames, count = _Frames(config.num_frames), _Count()
    inbound: Inbound
    outbound: Outbound
    if is_edge:
        inbound = frames
        outbound = (
            MpiOutbound(edge, communication, halt, observer)
            if config.overlap == "full"
            else BaselineOutbound(comm, edge, halt, observer, blocking=blocking)
        )
    else:
        outbound = count
        inbound = (
            MpiInbound(edge, communication, halt, observer, round_trip_ns)
            if config.overlap == "full"
            else BaselineInbound(comm, edge, halt, observer, blocking=blocking)
        )
    lane = Lane(engine.name, inbound, Chain([engine], observer), outbound, halt)
    comm.Barrier()
    begin_ns = now_ns()
    cpu_begin = time.process_time()
    if config.overlap == "full":
        communication.start()
    lane.start()
    lane.join()
    if halt.error is not None:
        raise halt.error
    end_ns = now_ns()
    if config.overlap == "full":
        communication.finish()
        communication.join(60)
    services = np.zeros((2, 2))
    services[comm.rank] = (statistics.median(observer.times_ms), (before_ms + solo_ms(engine, comm)) / 2)
    comm.Allreduce(MPI.IN_PLACE, services)
    # Each rank reports by its own clock: the edge's begin and the tail's end differ from it by a barrier at most.
    facts = np.array([end_ns - begin_ns, communication.cpu_s * 1e9, (time.process_time() - cpu_begin) * 1e9], np.int64)
    if not is_edge:
        comm.Send(facts, 0)
        return None
    far = np.zeros_like(facts)
    comm.Recv(far, 1, 0)
    wire_ms = config.frame_bytes / float(goodput[0]) * 1e3
    (edge_ms, edge_solo_ms), (tail_ms, tail_solo_ms) = services.tolist()
    ideal_ms = ideal_frame_ms(edge_ms, wire_ms, tail_ms, config.num_frames)
    measured_ms = float(far[0]) / 1e6 / config.num_frames
    return {
        "overlap": config.overlap,
        "engine": config.engine,
        "num_frames": config.num_frames,
        "frame_bytes": config.frame_bytes,
        "edge_ms": round(edge_ms, 3),
        "wire_ms": round(wire_ms, 3),
        "tail_ms": round(tail_ms, 3),
        "edge_solo_ms": round(edge_solo_ms, 3),
        "tail_solo_ms": round(tail_solo_ms, 3),
        "raw_tcp_mbit_s": round(float(goodput[0]) * 8 / 1e6, 2),
        "round_trip_ms": round(round_trip_ns / 1e6, 3),
        "ideal_ms": round(ideal_ms, 3),
        "measured_ms": round(measured_ms, 3),
        "efficiency": round(ideal_ms / measured_ms, 4),
        "solo_efficiency": round(
            ideal_frame_ms(edge_solo_ms, wire_ms, tail_solo_ms, config.num_frames) / measured_ms, 4
        ),
        "communication_cpu_share": [round(float(f[1]) / float(f[0]), 4) for f in (facts, far)],
    }


def ideal_frame_ms(edge_ms: float, wire_ms: float, tail_ms: float, num_frames: int) -> float:
    """Time per frame of `num_frames` through three steps that overlap perfectly, the filling and draining included."""
    slowest = max(edge_ms, wire_ms, tail_ms)
    return (num_frames * slowest + edge_ms + wire_ms + tail_ms - slowest) / num_frames


def measure_round_trip(comm: MPI.Comm, num_pings: int = 20) -> int:
    """Shortest round trip of an 8-byte message between ranks 0 and 1, ns; the same number on both."""
    ball = np.zeros(1, np.int64)
    times = []
    for _ in range(num_pings):
        begin = now_ns()
        if comm.rank == 0:
            comm.Send(ball, 1)
            comm.Recv(ball, 1, 0)
        else:
            comm.Recv(ball, 0, 0)
            comm.Send(ball, 0)
        times.append(now_ns() - begin)
    shortest = np.array([min(times)], np.int64)
    comm.Bcast(shortest, 0)
    return int(shortest[0])


def main() -> int:
    """Entry of each rank; the only argument is the configuration as JSON."""
    config = OverlapConfig(**json.loads(sys.argv[1]))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    comm = MPI.COMM_WORLD
    try:
        if comm.size != 2:
            raise ConfigError(f"the overlap bench runs on 2 ranks, not {comm.size}; start it with mpirun -n 2")
        result = run(config, comm)
    except BaseException as error:
        print(f"splitrail bench: rank {comm.rank}: {error}", file=sys.stderr, flush=True)
        comm.Abort(getattr(error, "exit_code", 1))
        raise
    if result is not None:
        print(json.dumps(result), flush=True)
    MPI.Finalize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
