"""What one rank of the overlap bench does: make its part, measure the link, stream the frames, tell the times.

Rank 0 computes and sends, rank 1 receives and computes: test engines (`overlap_engine.py`) or the graphs of a bundle. What
carries the frames is `--overlap`: lanes, chains and the channel of the product, or a baseline with the same engines.

    overlap efficiency = ideal / measured,  ideal = (n max(e, w, t) + e + w + t - max) / n  per frame

with e and t the service times in this run (median) and w the frame's bytes over the raw TCP goodput of the same run: how
much of what could be hidden is hidden. Streaming also takes time from the stages where it shares their cores. `solo_efficiency`
is the same with the test engines' solo times (both ranks at once, nothing streaming, before and after the run): what all of
it costs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from ..pipeline.clock import now_ns
from ..pipeline.communication import Communication
from ..pipeline.halt import Halt
from ..pipeline.observer import NullObserver
from . import baseline_pickle, baseline_single, baseline_zeromq, overlap_lanes
from .overlap_config import BUNDLE, OverlapConfig
from .overlap_frames import Frames, Results, Services
from .overlap_job import Job
from .overlap_link import measure_round_trip, raw_goodput, wait_quietly
from .overlap_stretch import MakeWatch, Stretch
from .percentile import percentiles

_PERCENTILES = (50, 99)
_BASELINES: dict[str, Callable[[Stretch], None]] = {
    "pickle": baseline_pickle.stream,
    "zeromq": baseline_zeromq.stream,
    "single": baseline_single.stream,
}


def run(config: OverlapConfig, comm: MPI.Comm, make_watch: MakeWatch | None = None) -> dict[str, Any] | None:
    """One measurement; the result on rank 0, None on rank 1. `make_watch` is for `measured`. Raises what a stage raised."""
    if config.overlap == "zeromq":
        baseline_zeromq.import_zeromq()
    # Both calibrate at once, as they will compute; where rank 0 has all the work, rank 1 has nothing to prepare.
    comm.Barrier()
    edge = Job(config, is_edge=True) if comm.rank == 0 else None
    tail = Job(config, is_edge=False) if (comm.rank == 0) == (config.overlap == "single") else None
    wait_quietly(comm)
    solo_before_ms = _solo_ms(edge, tail, comm)
    goodput = raw_goodput(comm, config.address)
    round_trip_ns = measure_round_trip(comm)

    halt = Halt()
    communication = Communication(comm, halt)
    watch = make_watch(comm, communication, halt) if make_watch is not None and config.overlap == "measured" else None
    observer = watch.observer if watch is not None else NullObserver()
    stretch = Stretch(
        config,
        comm,
        edge,
        tail,
        round_trip_ns,
        Frames(config.num_frames, edge.pictures if edge is not None else []),
        Results(observer, config.num_frames),
        Services(observer, config.num_frames),
        Services(observer, config.num_frames),
        watch,
        halt,
        communication,
    )
    if watch is not None:
        watch.begin()
    wait_quietly(comm)
    comm.Barrier()
    begin_ns, cpu_begin_s = now_ns(), time.process_time()
    _BASELINES.get(config.overlap, overlap_lanes.stream)(stretch)
    elapsed_ns, cpu_s = now_ns() - begin_ns, time.process_time() - cpu_begin_s
    if watch is not None:
        watch.end()
    solo_ms = (solo_before_ms + _solo_ms(edge, tail, comm)) / 2
    facts: dict[str, Any] = {
        "cpu_ms": cpu_s * 1e3 / config.num_frames,
        "communication_cpu_share": communication.cpu_s * 1e9 / elapsed_ns,
    }
    if edge is not None:
        facts |= {"edge_ms": stretch.edge_services.median_ms, "edge_solo_ms": solo_ms[0]}
        facts["growth_bytes"] = [_growth(stretch.frames.resident_bytes)]
        facts["own"] = [percentiles(stretch.edge_services.own_ms(stretch.frames.turns_ns()), _PERCENTILES)]
    if tail is not None:
        results = stretch.results
        if results.num_results != config.num_frames:
            raise RuntimeError(f"{results.num_results} of {config.num_frames} frames arrived")
        facts |= {"tail_ms": stretch.tail_services.median_ms, "tail_solo_ms": solo_ms[1]}
        facts["growth_bytes"] = [*facts.get("growth_bytes", []), _growth(results.resident_bytes)]
        own = percentiles(stretch.tail_services.own_ms(results.turns_ns()), _PERCENTILES)
        facts["own"] = [*facts.get("own", []), own]
        facts |= {
            # Each rank by its own clock: the edge's begin and the tail's differ by a barrier at most.
            "measured_ms": (results.times_ns[-1] - begin_ns) / 1e6 / config.num_frames,
            "frame_bytes": tail.arrivals.num_bytes / config.num_frames,
            "interval": percentiles((np.diff(results.times_ns) / 1e6).tolist(), _PERCENTILES),
            "delay": percentiles((np.array(results.delays_ns) / 1e6).tolist(), _PERCENTILES),
            "digest": f"{results.digest:08x}",
        }
    if comm.rank == 1:
        comm.Send([np.frombuffer(json.dumps({**facts, "goodput": goodput}).encode(), np.uint8), MPI.BYTE], 0)
        return None
    return _result(config, facts, _receive_json(comm), round_trip_ns)


def ideal_frame_ms(edge_ms: float, wire_ms: float, tail_ms: float, num_frames: int) -> float:
    """Time per frame of `num_frames` through three steps that overlap perfectly, the filling and draining included."""
    slowest = max(edge_ms, wire_ms, tail_ms)
    return (num_frames * slowest + edge_ms + wire_ms + tail_ms - slowest) / num_frames


def _result(config: OverlapConfig, near: dict[str, Any], far: dict[str, Any], round_trip_ns: int) -> dict[str, Any]:
    """One row, from what the ranks tell."""
    facts = {**far, **near}
    goodput, num_frames = far["goodput"], config.num_frames
    wire_ms = facts["frame_bytes"] / goodput * 1e3
    measured_ms = facts["measured_ms"]
    ideal_ms = ideal_frame_ms(facts["edge_ms"], wire_ms, facts["tail_ms"], num_frames)
    has_solo = config.engine != BUNDLE
    solo_ideal_ms = ideal_frame_ms(facts["edge_solo_ms"], wire_ms, facts["tail_solo_ms"], num_frames) if has_solo else 0
    return {
        "overlap": config.overlap,
        "engine": config.engine,
        "num_frames": num_frames,
        "frame_bytes": round(facts["frame_bytes"]),
        "eager_limit_bytes": config.eager_limit_bytes,
        "edge_ms": round(facts["edge_ms"], 3),
        "wire_ms": round(wire_ms, 3),
        "tail_ms": round(facts["tail_ms"], 3),
        "edge_solo_ms": round(facts["edge_solo_ms"], 3) if has_solo else None,
        "tail_solo_ms": round(facts["tail_solo_ms"], 3) if has_solo else None,
        "raw_tcp_mbit_s": round(goodput * 8 / 1e6, 2),
        "round_trip_ms": round(round_trip_ns / 1e6, 3),
        "ideal_ms": round(ideal_ms, 3),
        "measured_ms": round(measured_ms, 3),
        "fps": round(1e3 / measured_ms, 3),
        "efficiency": round(ideal_ms / measured_ms, 4),
        "solo_efficiency": round(solo_ideal_ms / measured_ms, 4) if has_solo else None,
        "own": near["own"] + far.get("own", []),
        "interval": facts["interval"],
        "delay": facts["delay"],
        "digest": facts["digest"],
        "cpu_ms": [round(part["cpu_ms"], 4) for part in (near, far)],
        "communication_cpu_share": [round(part["communication_cpu_share"], 4) for part in (near, far)],
        "growth_bytes": near["growth_bytes"] + far.get("growth_bytes", []),
    }


def _solo_ms(edge: Job | None, tail: Job | None, comm: MPI.Comm) -> Any:
    """Solo times of the parts this rank has, [edge, tail], both ranks at once because they may share a machine; 0 for others."""
    comm.Barrier()
    times = np.array([part.solo_ms() if part is not None else 0.0 for part in (edge, tail)])
    wait_quietly(comm)
    return times


def _growth(resident_bytes: list[int]) -> int:
    return resident_bytes[-1] - resident_bytes[0]


def _receive_json(comm: MPI.Comm) -> dict[str, Any]:
    status = MPI.Status()
    comm.Probe(1, MPI.ANY_TAG, status)
    text = np.zeros(status.Get_count(MPI.BYTE), np.uint8)
    comm.Recv([text, MPI.BYTE], 1)
    facts: dict[str, Any] = json.loads(text.tobytes())
    return facts
