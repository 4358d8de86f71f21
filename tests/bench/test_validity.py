"""A row of results is valid with all its proofs, and says which one is missing."""

import copy

import pytest

from splitrail.bench.validity import judge_row


def summary():
    """A run over two hosts that proves everything."""
    environment = {"affinity": [0, 1, 2, 3], "num_cpus": 4}
    return {
        "error": None,
        "counts": {"captured": 200, "done": 150, "empty": 40, "dropped": 8, "failed": 2, "unfinished": 0},
        "ranks": [{"rank": 0, "host": "edge", "threads": 4}, {"rank": 1, "host": "workstation", "threads": 2}],
        "edges": [
            {"name": "0->1 features", "num_messages": 190, "bytes_per_frame": 1000.0},
            {"name": "1->1 boxes", "num_messages": 190, "bytes_per_frame": 10.0**9},
        ],
        "wire_proof": {"interface_bytes": 200_000, "payload_bytes": 190_000},
        "environment": {"0": {**environment, "machine_id": "a"}, "1": {**environment, "machine_id": "b"}},
        "stability": {"stable": True, "reason": "", "windows": []},
        "delay": {"num": 190, "p50_ms": 50.0, "clock_error_ms": 0.2},
        "clocks": {"0": {"num_readings": None}, "1": {"num_readings": 2}},
    }


def test_a_row_with_all_proofs_is_valid():
    verdict = judge_row(summary(), (50, 95))
    assert verdict.valid
    assert str(verdict) == "valid"


def one_machine(row):
    row["environment"]["1"]["machine_id"] = "a"


def pin(row, affinity):
    one_machine(row)
    for rank, cpus in affinity.items():
        row["environment"][rank]["affinity"] = cpus
    for rank in row["ranks"]:
        rank["threads"] = 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda row: row.update(error="rank 1 was killed"), "end: rank 1 was killed"),
        (lambda row: row["wire_proof"].update(interface_bytes=None), "wire: no interface was watched"),
        (lambda row: row["wire_proof"].update(interface_bytes=189_999), "wire: the interfaces sent 189999 bytes"),
        (lambda row: row["environment"].update({"1": None}), "affinity: rank 1 does not say"),
        (lambda row: row["environment"]["0"].update(affinity=[0]), "affinity: rank 0 has 4 threads on 1 CPU(s)"),
        (lambda row: pin(row, {"0": [0], "1": [0]}), "affinity: the ranks of one machine share 1 of its 4 CPUs"),
        (lambda row: row["stability"].update(stable=False, reason="the rate drifts"), "stability: the rate drifts"),
        (lambda row: row["counts"].update(done=149), "count: 200 frames were captured and 199 ended"),
        (lambda row: row["counts"].update(unfinished=1), "count: "),
        (lambda row: row["delay"].update(num=129), "count: p95 needs 130 results and there are 129"),
        (lambda row: row["delay"].update(reason="no clock offset"), "clock: no clock offset"),
        (lambda row: row["clocks"]["1"].update(num_readings=1), "clock: the clock of rank 1 was not read again"),
        (lambda row: row["delay"].update(clock_error_ms=5.1), "clock: the delay of 50.00 ms is known to 5.10 ms only"),
    ],
)
def test_a_missing_proof_is_named(spoil, reason):
    row = copy.deepcopy(summary())
    spoil(row)
    verdict = judge_row(row, (50, 95))
    assert not verdict.valid
    assert len(verdict.reasons) == 1
    assert str(verdict).startswith(f"invalid: {reason}")


def test_all_that_is_missing_is_told_at_once():
    row = summary()
    row["stability"] = {"stable": False, "reason": "the rate drifts", "windows": []}
    row["wire_proof"]["interface_bytes"] = None
    assert len(judge_row(row).reasons) == 2


def test_ranks_of_one_host_need_no_wire_and_may_share_cpus_that_are_all_used():
    row = summary()
    row["ranks"][1]["host"] = "edge"
    row["wire_proof"]["interface_bytes"] = None
    row["clocks"]["1"]["num_readings"] = None
    pin(row, {"0": [0, 1, 2, 3], "1": [0, 1, 2, 3]})
    assert judge_row(row).valid
    pin(row, {"0": [0], "1": [1]})
    assert judge_row(row).valid
