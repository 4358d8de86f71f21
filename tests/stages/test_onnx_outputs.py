"""Cutting an ONNX graph down to some of its outputs."""

import numpy as np
import onnx
import pytest
from onnx import parser

from splitrail.stages.engines.onnx_outputs import keep_outputs

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[4] x, bool flag) => (float[4] first, float[4] second, float[4] third) {
    a = Relu(x)
    first = Neg(a)
    b, unused = Split<axis = 0>(x)
    second = Concat<axis = 0>(b, unused)
    c = Exp(x)
    third = If (flag) <
        then_branch = g1 () => (float[4] t) { t = Add(a, c) },
        else_branch = g2 () => (float[4] e) { e = Clip(a, , low) }
    >
    low = Abs(x)
}"""


def cut(*outputs: str) -> onnx.ModelProto:
    text = MODEL.replace("    low = Abs(x)\n", "").replace(
        "    c = Exp(x)\n", "    c = Exp(x)\n    low = ReduceMax<keepdims = 0>(x)\n"
    )
    return onnx.load_model_from_string(keep_outputs(parser.parse_model(text).SerializeToString(), outputs))


@pytest.mark.parametrize(
    ("outputs", "nodes"),
    [
        (("first",), ["Relu", "Neg"]),
        (("second",), ["Split", "Concat"]),
        (("first", "second"), ["Relu", "Neg", "Split", "Concat"]),
        (("third",), ["Relu", "Exp", "ReduceMax", "If"]),
    ],
)
def test_only_what_the_outputs_need_is_kept(outputs: tuple[str, ...], nodes: list[str]) -> None:
    model = cut(*outputs)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == nodes
    assert [output.name for output in model.graph.output] == list(outputs)
    assert [value.name for value in model.graph.input] == ["x", "flag"]


def test_a_cut_graph_computes_the_same() -> None:
    from onnx.reference import ReferenceEvaluator

    x = np.array([-1.0, 0.5, 2.0, 0.0], np.float32)
    for flag in (True, False):
        inputs = {"x": x, "flag": np.array(flag)}
        whole = ReferenceEvaluator(cut("first", "second", "third")).run(["third"], inputs)[0]
        assert np.array_equal(ReferenceEvaluator(cut("third")).run(["third"], inputs)[0], whole)


def test_all_outputs_leave_every_byte_as_it_is() -> None:
    model = cut("first", "second", "third").SerializeToString()
    assert keep_outputs(model, ("third", "second", "first")) == model


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no output \[fourth\]"):
        cut("first", "fourth")


@pytest.mark.parametrize("length", [1, 2, 40, -1])
def test_bytes_that_are_no_model_are_refused(length: int) -> None:
    whole = cut("first").SerializeToString()
    with pytest.raises(ValueError, match=r"not a serialised ONNX model|no output"):
        keep_outputs(whole[:length], ("first",))
    with pytest.raises(ValueError, match="not a serialised ONNX model"):
        keep_outputs(b"\xff" * 50, ("first",))
