"""Shared graphs: loaded once with what all need, and within a budget those used last."""

import pytest

from splitrail.stages.graph_pool import GraphPool


class Fake:
    name, precision = "fake", "fp32"

    def __init__(self, log, file, outputs):
        self.log, self.file, self.outputs = log, file, outputs
        log.append(f"+{file}")

    def run(self, inputs, outputs, targets=None):
        assert set(outputs) <= set(self.outputs)
        return dict.fromkeys(outputs, self.file)

    def close(self):
        self.log.append(f"-{self.file}")


@pytest.fixture
def log():
    return []


def graph(pool, log, file, outputs, num_bytes=10):
    return pool.graph(file, num_bytes, outputs, lambda wanted: Fake(log, file, wanted))


def test_a_file_is_loaded_once_with_the_outputs_of_all(log):
    pool = GraphPool()
    one, other = graph(pool, log, "a", ("x", "y")), graph(pool, log, "a", ("y", "z"))
    assert one is other
    pool.load_all()
    assert one.run({}, ("z",)) == {"z": "a"}
    assert one.run({}, ("x", "y")) == {"x": "a", "y": "a"}
    assert (one.name, one.precision) == ("fake", "fp32")
    one.close()
    other.close()
    assert log == ["+a", "-a"]
    assert pool.num_bytes == 10


def test_within_a_budget_those_used_last_stay(log):
    pool = GraphPool(25)
    a, b, c = (graph(pool, log, file, ("x",)) for file in "abc")
    pool.load_all()
    assert log == ["+a", "+b"]
    a.run({}, ("x",))
    c.run({}, ("x",))
    assert log == ["+a", "+b", "-b", "+c"]
    for _ in range(3):
        a.run({}, ("x",))
        c.run({}, ("x",))
    assert log == ["+a", "+b", "-b", "+c"]
    b.run({}, ("x",))
    assert log[4:] == ["-a", "+b"]


def test_a_graph_larger_than_the_budget_runs_alone(log):
    pool = GraphPool(15)
    small, large = graph(pool, log, "s", ("x",)), graph(pool, log, "l", ("x",), num_bytes=100)
    pool.load_all()
    assert log == ["+s"]
    large.run({}, ("x",))
    assert log == ["+s", "-s", "+l"]
    small.run({}, ("x",))
    assert log[3:] == ["-l", "+s"]


def test_a_graph_that_was_closed_is_loaded_again(log):
    pool = GraphPool()
    a = graph(pool, log, "a", ("x",))
    a.run({}, ("x",))
    a.close()
    a.run({}, ("x",))
    assert log == ["+a", "-a", "+a"]
