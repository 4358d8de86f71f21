"""A picture's bytes as a float input: the same graph, the same numbers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from splitrail.stages.engines.onnx_inputs import float_inputs
from splitrail.stages.engines.onnx_outputs import keep_outputs
from splitrail.stages.synthetic_bundle import make_synthetic_bundle


def test_the_named_input_is_float_and_nothing_else_changes(tmp_path: Path) -> None:
    bundle = make_synthetic_bundle(tmp_path)
    before = keep_outputs((tmp_path / "backbone.onnx").read_bytes(), ("features",))
    after = float_inputs(before, ("pixels",))
    old, new = (onnx.load_model_from_string(model).graph for model in (before, after))
    assert [tensor.name for tensor in new.input] == ["pixels", "valid_size"]
    assert [tensor.type.tensor_type.elem_type for tensor in old.input] == [
        onnx.TensorProto.UINT8,
        onnx.TensorProto.INT64,
    ]
    assert [tensor.type.tensor_type.elem_type for tensor in new.input] == [
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    ]
    assert [tensor.type.tensor_type.shape for tensor in new.input] == [
        tensor.type.tensor_type.shape for tensor in old.input
    ]
    assert (list(new.node), list(new.initializer), list(new.output)) == (
        list(old.node),
        list(old.initializer),
        list(old.output),
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for frame in bundle.golden_frames(tmp_path):
        feed = {"pixels": frame["pixels"], "valid_size": frame["valid_size"]}
        expected = onnxruntime.InferenceSession(before, options).run(None, feed)[0]
        feed["pixels"] = frame["pixels"].astype(np.float32)
        assert np.array_equal(onnxruntime.InferenceSession(after, options).run(None, feed)[0], expected)


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ValueError, match="not a serialised ONNX model"):
        float_inputs(b"no model at all", ("pixels",))
