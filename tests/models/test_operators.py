"""nms and roi_align in plain torch, beside ONNX Runtime's own and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from splitrail.models import operators
from splitrail.models.operators import OperatorsError, load_operators, nms, roi_align

load_operators()


def run_node(op: str, inputs: dict[str, np.ndarray], output: int, **attributes: object) -> np.ndarray:
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info(name, kinds[str(x.dtype)], x.shape) for name, x in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, inputs
    )[0]


def boxes_of(rng: np.random.Generator, num: int, extent: float = 100) -> np.ndarray:
    corner = rng.uniform(0, extent, (num, 2))
    return np.concatenate([corner, corner + rng.uniform(1, extent / 2, (num, 2))], axis=1).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200), st.floats(0.05, 0.95))
def test_nms_is_that_of_onnxruntime(seed: int, num: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = boxes_of(rng, num), rng.permutation(num).astype(np.float32) / num
    reference = run_node(
        "NonMaxSuppression",
        {
            "b": boxes[None],
            "s": scores[None, None],
            "m": np.array([num], np.int64),
            "t": np.array([threshold], np.float32),
        },
        TensorProto.INT64,
    )[:, 2]
    ours = nms(torch.from_numpy(boxes), torch.from_numpy(scores), float(np.float32(threshold)))
    np.testing.assert_array_equal(ours.numpy(), reference)


def test_nms_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    boxes, scores = torch.from_numpy(boxes_of(rng, 300)), torch.from_numpy(rng.random(300).astype(np.float32))
    whole = nms(boxes, scores, 0.4)
    monkeypatch.setattr(operators, "_BLOCK", 7)
    assert torch.equal(nms(boxes, scores, 0.4), whole)


def test_nms_by_hand() -> None:
    # The second box goes because of the first, so the third stays, which overlaps the second only.
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95])
    assert nms(boxes, scores, 0.3).tolist() == [3, 0, 2]
    assert nms(boxes, scores, 0.5).tolist() == [3, 0, 1, 2]
    # Equal scores: the first is the better one.
    assert nms(boxes[:2], torch.tensor([0.5, 0.5]), 0.3).tolist() == [0]
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("ratio", [1, 2, 3, 0])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_roi_align_is_that_of_onnxruntime(ratio: int, aligned: bool, batch: int) -> None:
    rng = np.random.default_rng(ratio)
    features = rng.normal(size=(batch, 5, 13, 17)).astype(np.float32)
    boxes = boxes_of(rng, 40) - 12  # some begin outside
    index = rng.integers(0, batch, 40)
    reference = run_node(
        "RoiAlign",
        {"x": features, "r": boxes, "i": index},
        TensorProto.FLOAT,
        output_height=3,
        output_width=4,
        sampling_ratio=ratio,
        spatial_scale=0.2,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
    )
    rois = np.concatenate([index[:, None].astype(np.float32), boxes], axis=1)
    ours = roi_align(torch.from_numpy(features), torch.from_numpy(rois), 0.2, 3, 4, ratio, aligned)
    np.testing.assert_allclose(ours.numpy(), reference, atol=2e-5)


def test_roi_align_by_hand() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # the value is the column
    # A bin from 2 to 4 with two samples at 2.5 and 3.5: 3; the next one 5.
    rois = torch.tensor([[0.0, 2, 2, 6, 6]])
    assert roi_align(ramp, rois, 1.0, 2, 2, 2, False)[0, 0].tolist() == [pytest.approx([3, 5])] * 2
    # Further than one cell outside there is nothing.
    assert roi_align(ramp, torch.tensor([[0.0, 20, 20, 24, 24]]), 1.0, 2, 2, 2, False).abs().max() == 0
    assert roi_align(ramp, torch.zeros(0, 5), 1.0, 2, 2, 2, False).shape == (0, 1, 2, 2)
    half = roi_align(ramp.half(), rois.half(), 1.0, 2, 2, 2, False)
    assert half.dtype == torch.float16


def test_roi_align_has_a_gradient() -> None:
    features = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.2, 0.7, 4.1, 5.3], [1, -3, 2, 9, 4.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: torch.ops.torchvision.roi_align(x, rois, 0.9, 2, 3, 2, False), (features,)
    )


def test_torchvision_uses_them() -> None:
    from torchvision.ops import batched_nms
    from torchvision.ops import nms as their_nms
    from torchvision.ops import roi_align as their_roi_align

    rng = np.random.default_rng(5)
    boxes, scores = torch.from_numpy(boxes_of(rng, 50)), torch.from_numpy(rng.random(50).astype(np.float32))
    assert torch.equal(their_nms(boxes, scores, 0.5), nms(boxes, scores, 0.5))
    assert len(batched_nms(boxes, scores, torch.arange(50), 0.5)) == 50
    features = torch.randn(1, 3, 9, 9)
    rois = torch.cat([torch.zeros(50, 1), boxes], dim=1)
    theirs = their_roi_align(features, rois, (2, 2), 0.1, 2)
    torch.testing.assert_close(theirs, roi_align(features, rois, 0.1, 2, 2, 2, False))


def test_with_the_compiled_operators_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_has_compiled", lambda folder: True)
    monkeypatch.setattr(torch.library, "Library", None)
    assert load_operators.__wrapped__() is True


def test_without_torchvision_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OperatorsError, match=r"pip install 'splitrail\[torch\]'"):
        load_operators.__wrapped__()
