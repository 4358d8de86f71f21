"""Hand-made journals of a run over two hosts whose clocks differ: known times, known answers."""

import json
import random

from splitrail.bench.journal import journal_path

MS = 1_000_000
SKEW = 7_000_000_000
"""The workstation's clock is ahead of the edge's by this, ns."""
BACKBONE, FEATURES, RESULT = 20, "0->1 features", "1->0 boxes+scores+labels"


def write_run(
    folder,
    *,
    num=40,
    period_ms=40,
    link_ms=10,
    jitter_ms=0.0,
    transformer_ms=8,
    detector="tiny",
    command="splitrail run --placement backbone",
    ended=True,
    last_frame=None,
    far_host="workstation",
    is_empty=lambda frame: False,
    **facts,
):
    """Frame n, in ms of the edge's clock from period * n:

    0 capture 4 | preprocess 6 | backbone 26 | posted 27, on the link link_ms | transformer | postprocess 1 | back in 1 |
    output 2, of which 1 waits for the writers

    A frame that `is_empty` is ended after preprocess by a filter of 2 ms: a header of 320 bytes takes 1 ms each way.
    `last_frame`: the run was killed when this frame had reached the workstation and no later one.
    """
    dice = random.Random(0)
    skew = SKEW if far_host != "edge" else 0
    near, far = [], []
    arrived_before = 0
    common = {
        "schema": 1,
        "placement": "backbone",
        "detector": detector,
        "bundle": "0123456789abcdef",
        "wire": "fp16",
        "overlap": "full",
        "policy": "wait",
        "source_rank": 0,
        "sink_rank": 0,
        "chain": [[0, "source+preprocess"], [0, "backbone"], [1, "transformer"], [1, "postprocess"], [0, "sink"]],
        "edges": {"0": FEATURES, "1": RESULT},
        "engine": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "engine_choice": None,
        "engine_disagreement": None,
        "graph_bytes": 1000,
        "environment": {
            "command": command,
            "python": "3.11",
            "affinity": [0, 1],
            "num_cpus": 2,
            "machine_id": "m",
            "packages": {"numpy": "2.0"},
        },
        "source": {"fps": 25.0, "description": "a clip"},
        **facts,
    }
    clocks = {"0": [200_000, skew, 0], "1": [200_000, -skew, skew]}
    near.append({"e": "begin", "t": 0, "rank": 0, "host": "edge", "graphs": ["backbone"], "clocks": clocks, **common})
    far.append(
        {"e": "begin", "t": skew, "rank": 1, "host": far_host, "graphs": ["transformer"], "clocks": clocks, **common}
    )
    near[0]["lanes"] = ["source+preprocess", "backbone", "sink"]
    far[0]["lanes"] = ["transformer", "postprocess"]
    near.append({"e": "stream", "t": 0, "tx_bytes": 1000})
    far.append({"e": "stream", "t": skew, "tx_bytes": 500})
    for frame in range(num):
        begin = round((frame * period_ms + dice.uniform(0, jitter_ms)) * MS)

        def at(ms, begin=begin):
            return begin + round(ms * MS)

        def stage(lines, name, first, last, frame=frame, offset=0):
            lines.append({"e": "stage", "n": name, "f": frame, "b": first + offset, "t": last + offset})

        stage(near, "capture", begin, at(4))
        stage(near, "preprocess", at(4), at(6))
        near.append({"e": "wait", "c": "input", "n": "source+preprocess", "f": frame, "b": begin, "t": at(6)})
        if is_empty(frame):
            stage(near, "filter", at(6), at(8))
            arrived = max(at(8), arrived_before) + MS
            arrived_before = arrived
            header = {"e": "transfer", "f": frame, "k": 2, "s": 320}
            far.append({**header, "n": FEATURES, "b": at(8), "t": arrived + skew})
            far.append({**header, "n": RESULT, "b": arrived + skew, "t": arrived + skew})
            near.append({**header, "n": FEATURES, "b": at(8), "t": at(8)})
            near.append({**header, "n": RESULT, "b": arrived + skew, "t": arrived + MS})
            output = {"f": frame, "x": "empty", "r": "", "c": begin, "p": frame, "t": arrived + MS}
            near.append({"e": "fate", **output})
            continue
        stage(near, "backbone", at(6), at(26))
        near.append({"e": "wait", "c": "credit", "n": FEATURES, "f": frame, "b": at(26), "t": at(27)})
        posted = at(27)
        near.append({"e": "transfer", "n": FEATURES, "f": frame, "k": 1, "s": 1000, "b": posted, "t": posted + MS})
        if last_frame is not None and frame > last_frame:
            continue
        # The link carries one frame at a time.
        arrived = max(posted, arrived_before) + link_ms * MS
        far.append(
            {"e": "wait", "c": "input", "n": FEATURES, "f": frame, "b": arrived_before + skew, "t": arrived + skew}
        )
        arrived_before = arrived
        far.append({"e": "transfer", "n": FEATURES, "f": frame, "k": 1, "s": 1000, "b": posted, "t": arrived + skew})
        ready = arrived + transformer_ms * MS
        stage(far, "transformer", arrived, ready, offset=skew)
        stage(far, "postprocess", ready, ready + MS, offset=skew)
        back = ready + MS
        far.append(
            {"e": "transfer", "n": RESULT, "f": frame, "k": 1, "s": 300, "b": back + skew, "t": back + MS + skew}
        )
        near.append({"e": "transfer", "n": RESULT, "f": frame, "k": 1, "s": 300, "b": back + skew, "t": back + MS})
        stage(near, "output", back + MS, back + 3 * MS)
        near.append({"e": "wait", "c": "sink", "n": "pictures", "f": frame, "b": back + 2 * MS, "t": back + 3 * MS})
        near.append({"e": "fate", "f": frame, "x": "done", "r": "", "c": begin, "p": frame, "t": back + MS})
    if ended:
        end = (num * period_ms + 1000) * MS
        memory = {"resident_bytes": 90_000_000, "peak_resident_bytes": 100_000_000}
        near.append(
            {"e": "end", "t": end, "tx_bytes": 10**6, "num_captured": num, "communication_cpu_s": 0.1, **memory}
        )
        memory = {"resident_bytes": 190_000_000, "peak_resident_bytes": 200_000_000}
        far.append({"e": "end", "t": end + skew, "tx_bytes": 10**6, "communication_cpu_s": 0.1, **memory})
        near.append({"e": "clock", "t": end, "edge": 0, "round_trip_ns": 200_000, "offset_ns": skew, "at_ns": end})
        far.append(
            {"e": "clock", "t": end, "edge": 1, "round_trip_ns": 200_000, "offset_ns": -skew, "at_ns": end + skew}
        )
    folder.mkdir(parents=True, exist_ok=True)
    for rank, lines in ((0, near), (1, far)):
        journal_path(folder, rank).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def cut_off(folder, rank, num_bytes=20):
    """As a kill leaves it: the last line ends in the middle."""
    path = journal_path(folder, rank)
    path.write_bytes(path.read_bytes()[:-num_bytes])
