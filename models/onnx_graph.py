"""One segment of a detector as an ONNX graph, and the proof that it is the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..pipeline.errors import EngineError, SplitrailError, UsageError
from ..pipeline.packet import Array
from ..stages.agreement import RCNN_MISSES, num_matched
from ..stages.bundle import GraphTensor
from ..stages.detections import Detections
from .segment import Segment

OPSETS = range(13, 21)
"""What the exporter can write and this package has tried; 13 is what TensorRT 8.2 reads."""
_DETECTION = "det_"
"""Begins the names of an R-CNN's outputs, which have a row per detection."""
MAX_WIRE_ERROR = 1e-4
"""Largest relative L2 difference of a float32 wire tensor between the graph and torch."""
MAX_OUTPUT_ERROR = 1e-3
"""Largest absolute difference of a logit or box coordinate between the graph and torch."""
MIN_CLEAR_SCORE = 0.1
"""Detections of an R-CNN with less may be on one side only."""


class ExportError(SplitrailError):
    """A graph that is not the model it was made from."""


def write_graph(
    segment: Segment, inputs: tuple[Tensor, Tensor], outputs: Sequence[GraphTensor], path: Path, opset: int
) -> None:
    """Trace `segment` with `inputs` and write it to `path`; sizes stay open where its inputs and `outputs`, as the manifest has
    them, have names for sizes.

    Raises UsageError for an opset out of `OPSETS` or a missing onnx; ExportError when what came out is of another opset.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} cannot be exported; choose {OPSETS.start} to {OPSETS.stop - 1}")
    try:
        import onnx
    except ImportError as error:
        raise UsageError("onnx is not installed; pip install 'splitrail[torch]'") from error
    names = (segment.input_name, "valid_size")
    axes = {
        tensor.name: {axis: size for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in (*graph_inputs(segment, inputs), *outputs)
    }
    with warnings.catch_warnings():
        # The newer exporter returns opset 18 when asked for 13, so this is the older one; it says so at every call.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        # No index of an R-CNN is negative.
        warnings.filterwarnings("ignore", "Exporting aten::index operator", UserWarning)
        torch.onnx.export(
            segment,
            inputs,
            str(path),
            input_names=list(names),
            output_names=list(segment.output_names),
            dynamic_axes={name: sizes for name, sizes in axes.items() if sizes},
            opset_version=opset,
            dynamo=False,
        )
    model = onnx.load(str(path))
    if "valid_size" not in {value.name for value in model.graph.input}:
        # The exporter leaves out what a segment does not read; every graph of a bundle has it.
        size = onnx.helper.make_tensor_value_info("valid_size", onnx.TensorProto.INT64, [2])
        model.graph.input.append(size)
        onnx.save_model(model, str(path))
    onnx.checker.check_model(model, full_check=True)
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found != {"": opset}:
        raise ExportError(
            f"{path.name} was asked for opset {opset} and came out as {found}; use another release of torch"
        )
    for node in model.graph.node:
        try:
            onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError as error:
            raise ExportError(f"{path.name} has a node {node.op_type} that opset {opset} does not know") from error


def graph_inputs(segment: Segment, inputs: tuple[Tensor, Tensor]) -> tuple[GraphTensor, ...]:
    """The graph's inputs as the manifest has them."""
    x, valid_size = inputs
    return _described(segment, segment.input_name, x), GraphTensor(
        name="valid_size", dtype="int64", shape=tuple(valid_size.shape)
    )


def graph_outputs(segment: Segment, inputs: tuple[Tensor, Tensor]) -> tuple[GraphTensor, ...]:
    """The graph's outputs as the manifest has them."""
    with torch.inference_mode():
        outputs = segment(*inputs)
    return tuple(_described(segment, name, value) for name, value in zip(segment.output_names, outputs, strict=True))


def _described(segment: Segment, name: str, value: Tensor) -> GraphTensor:
    shape: tuple[int | str, ...] = tuple(value.shape)
    if name.startswith(_DETECTION):
        shape = ("detections", *shape[1:])
    elif segment.pixel_size is None and name == "pixels":
        shape = (1, "height", "width", 3)
    elif segment.pixel_size is None and value.dim() == 4:
        shape = (*shape[:2], "feature_height", "feature_width")
    return GraphTensor.model_validate({"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape})


def check_graph(path: Path, segment: Segment, arrays: Mapping[str, Array]) -> bool:
    """Run the graph in ONNX Runtime and compare with torch; False where ONNX Runtime is not installed.

    `arrays` has, by name, the inputs and the float32 outputs that torch computed from them. Raises ExportError when one
    differs by more than `MAX_WIRE_ERROR` or `MAX_OUTPUT_ERROR`, or a detection of an R-CNN has no counterpart; EngineError when
    the graph is refused.
    """
    try:
        import onnxruntime
    except ImportError:
        return False
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {name: arrays[name] for name in (segment.input_name, "valid_size")}
        results = session.run(list(segment.fp32_names), inputs)
    except Exception as error:  # its exceptions share no base class
        raise EngineError(f"onnxruntime refuses {path.name}: {error}; export with another opset") from error
    if segment.fp32_names[0].startswith(_DETECTION):
        _check_detections(path, arrays, dict(zip(segment.fp32_names, results, strict=True)))
        return True
    for name, result in zip(segment.fp32_names, results, strict=True):
        reference = arrays[name].astype(np.float64)
        difference = result.astype(np.float64) - reference
        if segment.wire_name is None:
            distance, bound, kind = float(np.abs(difference).max()), MAX_OUTPUT_ERROR, "absolute"
        else:
            scale = max(float(np.linalg.norm(reference)), 1e-12)
            distance, bound, kind = float(np.linalg.norm(difference)) / scale, MAX_WIRE_ERROR, "relative"
        if not distance <= bound:
            raise ExportError(
                f"{path.name}: {name} in onnxruntime differs from torch by {distance:.2g} ({kind}), more than {bound:.0e}"
            )
    return True


def _check_detections(path: Path, arrays: Mapping[str, Array], results: Mapping[str, Array]) -> None:
    """A proposal that is barely chosen by one may barely not be by the other, so these are compared as sets."""
    sides = [
        Detections(
            side["det_boxes"].astype(np.float32, copy=False),
            side["det_scores"].astype(np.float32, copy=False),
            side["det_labels"].astype(np.int32),
        )
        for side in (arrays, results)
    ]
    clear = [side.above(MIN_CLEAR_SCORE) for side in sides]
    missing = sum(len(clear[i]) - num_matched(clear[i], sides[1 - i]) for i in (0, 1))
    if missing > RCNN_MISSES * sum(map(len, clear)):
        raise ExportError(
            f"{path.name}: {missing} of {len(clear[0])} detections in torch and {len(clear[1])} in onnxruntime have no "
            f"counterpart"
        )
