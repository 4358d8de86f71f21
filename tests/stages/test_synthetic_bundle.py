"""The tiny bundle of the tests is a bundle like any other."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from splitrail.pipeline.errors import BundleError
from splitrail.stages.bundle import Bundle
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

NAMES = (["detector"], ["backbone", "transformer"], ["backbone", "encoder", "decoder"])


@pytest.mark.parametrize("cuts", [0, 1, 2])
@pytest.mark.parametrize("size", [(64, 96), None])
def test_it_loads_and_its_graphs_are_what_the_manifest_says(
    tmp_path: Path, cuts: int, size: tuple[int, int] | None
) -> None:
    made = make_synthetic_bundle(tmp_path, cuts=cuts, size=size)
    bundle = Bundle.load(tmp_path)
    assert bundle == made
    assert [stage.name for stage in bundle.stages] == NAMES[cuts]
    for stage in bundle.stages:
        graph = onnx.load(tmp_path / stage.graph).graph
        for tensors, values in ((stage.inputs, graph.input), (stage.outputs, graph.output)):
            for tensor, value in zip(tensors, values, strict=True):
                kind = value.type.tensor_type
                assert value.name == tensor.name
                assert onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) == np.dtype(tensor.dtype)
                assert tuple(d.dim_param or d.dim_value for d in kind.shape.dim) == tensor.shape


def test_golden_frames_have_every_tensor_of_the_manifest(tmp_path: Path) -> None:
    bundle = make_synthetic_bundle(tmp_path, cuts=2, num_classes=4, num_queries=6)
    for frame in bundle.golden_frames(tmp_path):
        shapes = {name: array.shape for name, array in frame.items()}
        assert shapes == {
            "pixels": (1, 64, 96, 3),
            "valid_size": (2,),
            "features": (1, 16, 8, 12),
            "memory": (1, 16, 8, 12),
            "pred_logits": (1, 6, 5),
            "pred_boxes": (1, 6, 4),
        }
        assert frame["pred_boxes"].min() >= 0
        assert frame["pred_boxes"].max() <= 1
        assert frame["features"].min() < 0 < frame["features"].max()


def test_seed_makes_the_weights(tmp_path: Path) -> None:
    first, again, other = (
        make_synthetic_bundle(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.checksum == again.checksum != other.checksum


@pytest.mark.parametrize(
    "wrong", [{"size": (60, 96)}, {"size": (0, 8)}, {"cuts": 3}, {"num_classes": 0}, {"num_queries": 0}]
)
def test_arguments_that_make_no_detector_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="multiples of 8"):
        make_synthetic_bundle(tmp_path, **wrong)
