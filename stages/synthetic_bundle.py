"""A tiny untrained detector as a bundle, for tests and for trying a set-up; made with `onnx` alone, without torch.

It keeps every convention of `bundle.py`: two strided convolutions as backbone, one round of query attention as transformer
(an encoder in between with two cuts), wire outputs at every cut, masks from `valid_size` inside the graphs. What it detects
means nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.errors import BundleError
from ..pipeline.packet import Array
from .bundle import Bundle, GraphStage, GraphTensor, NeuralFilter, PostProcess, PreProcess, sha256_of
from .neural_filter import OBJECTNESS

_OPSET = 17
_STRIDE = 8
_WIDTH = 16
_STEM_STRIDE = 2
_STEM_WIDTH = 8

# The graphs in ONNX's own text form. `padded` is height and width of the input image, `inside` [H, W] is 1 where it
# shows the source image.
_SIZE_FROM_PIXELS = """
    pixel_shape = Shape(pixels)
    padded = Slice(pixel_shape, i1, i3)
"""
_SIZE_FROM_FEATURES = """
    feature_shape = Shape(SEQUENCE)
    feature_size = Slice(feature_shape, i2, i4)
    padded = Mul(feature_size, stride)
"""
_MASK = """
    height = Gather(padded, scalar_i0)
    width = Gather(padded, scalar_i1)
    valid_height = Gather(valid_size, scalar_i0)
    valid_width = Gather(valid_size, scalar_i1)
    rows = Range(scalar_i0, height, scalar_i1)
    columns = Range(scalar_i0, width, scalar_i1)
    row_inside = Less(rows, valid_height)
    column_inside = Less(columns, valid_width)
    row_column = Unsqueeze(row_inside, i1)
    column_row = Unsqueeze(column_inside, i0)
    inside_bool = And(row_column, column_row)
    inside = Cast<to = 1>(inside_bool)
"""
_STEM = """
    bytes = Cast<to = 1>(pixels)
    scaled = Div(bytes, full_range)
    centred = Sub(scaled, half)
    inside_pixels = Unsqueeze(inside, i0_3)
    masked = Mul(centred, inside_pixels)
    image = Transpose<perm = [0, 3, 1, 2]>(masked)
    stem = Conv<strides = [2, 2], kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(image, stem_weight)
    l0 = Relu(stem)
"""
_LAYERS = """
    features = Conv<strides = [4, 4], kernel_shape = [5, 5], pads = [1, 1, 1, 1]>(l0, feature_weight)
"""
# Grey of half the range makes no activity at all in the stem: an even grey picture has no object.
_FILTER = """
    activity = ReduceMean<keepdims = 0>(l0)
    contrast = Mul(activity, filter_gain)
    bounded = Tanh(contrast)
    objectness = Reshape(bounded, i_1)
"""
_ENCODER = """
    mixed = Conv<kernel_shape = [1, 1]>(features, encoder_weight)
    bounded = Tanh(mixed)
    memory = Add(features, bounded)
"""
_QUERIES = """
    coarse = Slice(inside, i0_0, padded, i0_1, stride)
    hidden = Sub(coarse, one)
    penalty = Mul(hidden, large)
    flat_penalty = Reshape(penalty, flat_shape)
    sequence = Reshape(SEQUENCE, sequence_shape)
    affinity = MatMul(queries, sequence)
    masked_affinity = Add(affinity, flat_penalty)
    attention = Softmax<axis = -1>(masked_affinity)
    values = Transpose<perm = [0, 2, 1]>(sequence)
    gathered = MatMul(attention, values)
    decoded = Add(gathered, queries)
    pred_logits = MatMul(decoded, class_weight)
    box_logits = MatMul(decoded, box_weight)
    pred_boxes = Sigmoid(box_logits)
"""
# The arithmetic of `codec.py`.
_WIRE = """
    T_not_above = Min(T, half_max)
    T_bounded = Max(T_not_above, half_min)
    T_fp16 = Cast<to = 10>(T_bounded)
    T_min = ReduceMin<keepdims = 0>(T)
    T_max = ReduceMax<keepdims = 0>(T)
    T_low = Min(T_min, zero)
    T_high = Max(T_max, zero)
    T_range = Sub(T_high, T_low)
    T_step = Mul(T_range, per_code)
    T_is_flat = Less(T_step, smallest)
    T_scale = Where(T_is_flat, one, T_step)
    T_inverse = Reciprocal(T_scale)
    T_negative_low = Neg(T_low)
    T_offset = Mul(T_negative_low, T_inverse)
    T_rounded_offset = Round(T_offset)
    T_origin = Clip(T_rounded_offset, scalar_0, scalar_255)
    T_zero_point = Cast<to = 2>(T_origin)
    T_steps = Mul(T, T_inverse)
    T_rounded = Round(T_steps)
    T_moved = Add(T_rounded, T_origin)
    T_code = Clip(T_moved, scalar_0, scalar_255)
    T_uint8 = Cast<to = 2>(T_code)
"""
_BODIES = {
    "detector": _SIZE_FROM_PIXELS + _MASK + _STEM + _LAYERS + _QUERIES.replace("SEQUENCE", "features"),
    "backbone": _SIZE_FROM_PIXELS + _MASK + _STEM + _LAYERS + _WIRE.replace("T", "features"),
    "stem": _SIZE_FROM_PIXELS + _MASK + _STEM + _WIRE.replace("T", "l0"),
    "layers": _LAYERS + _WIRE.replace("T", "features"),
    "filter": _FILTER,
    "encoder": _ENCODER + _WIRE.replace("T", "memory"),
    "transformer": (_SIZE_FROM_FEATURES + _MASK + _QUERIES).replace("SEQUENCE", "features"),
    "decoder": (_SIZE_FROM_FEATURES + _MASK + _QUERIES).replace("SEQUENCE", "memory"),
}


def make_synthetic_bundle(
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = (64, 96),
    num_classes: int = 3,
    num_queries: int = 5,
    cuts: int = 1,
    seed: int = 0,
    filter_threshold: float | None = None,
) -> Bundle:
    """Write the bundle into `folder` (made if missing) and return its manifest.

    `size` is height and width of the graphs; None makes graphs of dynamic size, which take multiples of 8 as well. One
    cut gives backbone | transformer over `features` [1, 16, H / 8, W / 8]; two give backbone | encoder | decoder with
    `memory` of the same shape; none gives one graph, detector. With `filter_threshold` the backbone is two graphs, stem |
    layers over `l0` [1, 8, H / 2, W / 2], with a neural filter behind the stem, to which an even grey picture is empty.
    Two golden frames, the second one padded, computed by ONNX's reference implementation.

    Raises BundleError: onnx is missing, or the arguments make no detector.
    """
    fits_filter = filter_threshold is None or (cuts > 0 and 0 <= filter_threshold <= 1)
    fits = size is None or (min(size) >= _STRIDE and all(side % _STRIDE == 0 for side in size))
    if not fits or not fits_filter or num_classes < 1 or num_queries < 1 or cuts not in (0, 1, 2):
        raise BundleError(
            f"no synthetic bundle with size [{size}], [{num_classes}] classes, [{num_queries}] queries and [{cuts}] cuts: "
            f"give a height and width that are multiples of {_STRIDE}, at least one class and query, and 0 to 2 cuts; a filter "
            f"needs a cut and a threshold in [0, 1], not [{filter_threshold}]"
        )
    try:
        import onnx
    except ImportError as error:
        raise BundleError("making a bundle needs onnx: pip install 'splitrail[torch]'") from error
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    constants = _constants(num_classes, num_queries, np.random.default_rng(seed))
    frames = _golden_inputs(size or (64, 96), np.random.default_rng(seed + 1))
    is_filtered = filter_threshold is not None
    graphs = []
    for plan in _plans(size, num_classes, num_queries, cuts, is_filtered):
        model = _model(plan, constants)
        onnx.save_model(model, str(root / plan.graph))
        graphs.append(plan.model_copy(update={"sha256": sha256_of(root / plan.graph)}))
        for frame in frames:
            _evaluate(model, plan, frame)
    neural_filter = None
    if filter_threshold is not None:
        neural_filter = NeuralFilter(graph=graphs.pop(), after="stem", threshold=filter_threshold)
    np.savez(
        root / "golden.npz",
        allow_pickle=False,
        **{f"{i}/{name}": a for i, f in enumerate(frames) for name, a in f.items()},
    )
    bundle = Bundle(
        detector="synthetic",
        classes=tuple(f"class {label}" for label in range(num_classes)),
        preprocess=PreProcess(size=size, short_side=64, max_long_side=96),
        postprocess=PostProcess(),
        stages=tuple(graphs),
        golden_sha256=sha256_of(root / "golden.npz"),
        num_golden_frames=len(frames),
        opset=_OPSET,
        num_head_stages=1 + is_filtered,
        filter=neural_filter,
    )
    bundle.save(root)
    return bundle


def _plans(
    size: tuple[int, int] | None, num_classes: int, num_queries: int, cuts: int, is_filtered: bool
) -> list[GraphStage]:
    """The manifest's stages, and the filter's graph behind them, their checksums still empty."""
    largest = size or (96, 96)
    names: tuple[str, ...] = (("detector",), ("backbone", "transformer"), ("backbone", "encoder", "decoder"))[cuts]
    between = ("features", "memory")[:cuts]
    if is_filtered:
        names, between = ("stem", "layers", *names[1:]), ("l0", *between)

    def strided(prefix: str, stride: int) -> tuple[int | str, ...]:
        return (size[0] // stride, size[1] // stride) if size else (f"{prefix}_height", f"{prefix}_width")

    shapes: dict[str, tuple[int | str, ...]] = {
        "pixels": (1, *(size or ("height", "width")), 3),
        "l0": (1, _STEM_WIDTH, *strided("l0", _STEM_STRIDE)),
        "features": (1, _WIDTH, *strided("feature", _STRIDE)),
        "memory": (1, _WIDTH, *strided("feature", _STRIDE)),
    }
    strides = {"l0": _STEM_STRIDE, "features": _STRIDE, "memory": _STRIDE}
    plans = []
    for index, name in enumerate(names):
        source = GraphTensor(name="pixels", dtype="uint8", shape=shapes["pixels"])
        if index:
            source = GraphTensor(name=between[index - 1], dtype="float32", shape=shapes[between[index - 1]])
        outputs: tuple[GraphTensor, ...] = (
            GraphTensor(name="pred_logits", dtype="float32", shape=(1, num_queries, num_classes + 1)),
            GraphTensor(name="pred_boxes", dtype="float32", shape=(1, num_queries, 4)),
        )
        max_wire_bytes = 0
        if index < len(between):
            wire = between[index]
            features = shapes[wire]
            max_wire_bytes = 4 * int(features[1]) * (largest[0] // strides[wire]) * (largest[1] // strides[wire])
            outputs = (
                GraphTensor(name=wire, dtype="float32", shape=features),
                GraphTensor(name=f"{wire}_fp16", dtype="float16", shape=features),
                GraphTensor(name=f"{wire}_uint8", dtype="uint8", shape=features),
                GraphTensor(name=f"{wire}_scale", dtype="float32", shape=(1,)),
                GraphTensor(name=f"{wire}_zero_point", dtype="uint8", shape=(1,)),
            )
        plans.append(
            GraphStage(
                name=name,
                graph=f"{name}.onnx",
                sha256="",
                inputs=(source, GraphTensor(name="valid_size", dtype="int64", shape=(2,))),
                outputs=outputs,
                wire_tensors=between[index : index + 1],
                max_wire_bytes=max_wire_bytes,
            )
        )
    if is_filtered:
        plans.append(
            GraphStage(
                name="filter",
                graph="filter.onnx",
                sha256="",
                inputs=(GraphTensor(name="l0", dtype="float32", shape=shapes["l0"]),),
                outputs=(GraphTensor(name=OBJECTNESS, dtype="float32", shape=(1,)),),
            )
        )
    return plans


def _model(plan: GraphStage, constants: dict[str, Array]) -> Any:
    """The ONNX model of one stage, checked."""
    from onnx import checker, numpy_helper, parser

    body = _BODIES[plan.name]
    text = (
        f'<ir_version: 8, opset_import: ["" : {_OPSET}]> '
        f"{plan.name} ({_signature(plan.inputs)}) => ({_signature(plan.outputs)}) {{{body}}}"
    )
    model = parser.parse_model(text)
    used = set(re.findall(r"\w+", body))
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items() if name in used)
    checker.check_model(model, full_check=True)
    return model


def _signature(tensors: tuple[GraphTensor, ...]) -> str:
    names = {"float32": "float"}
    return ", ".join(f"{names.get(t.dtype, t.dtype)}[{','.join(map(str, t.shape))}] {t.name}" for t in tensors)


def _constants(num_classes: int, num_queries: int, random: np.random.Generator) -> dict[str, Array]:
    """Weights and constants of all graphs by name."""

    def weight(gain: float, *shape: int) -> Array:
        num_inputs = int(np.prod(shape[1:])) if len(shape) == 4 else shape[-2]
        return np.asarray(gain * random.standard_normal(shape) / num_inputs**0.5, np.float32)

    def integers(*values: int) -> Array:
        return np.array(values, np.int64)

    return {
        "stem_weight": weight(1.4, _STEM_WIDTH, 3, 3, 3),
        "feature_weight": weight(5.6, _WIDTH, _STEM_WIDTH, 5, 5),
        "encoder_weight": weight(1.4, _WIDTH, _WIDTH, 1, 1),
        "queries": weight(1.3, 1, num_queries, _WIDTH),
        "class_weight": weight(2.5, 1, _WIDTH, num_classes + 1),
        "box_weight": weight(0.6, 1, _WIDTH, 4),
        "full_range": np.full(1, 255, np.float32),
        "per_code": np.full(1, 1 / 255, np.float32),
        "smallest": np.full(1, np.finfo(np.float32).tiny, np.float32),
        "half": np.full(1, 0.5, np.float32),
        "zero": np.zeros(1, np.float32),
        "one": np.ones(1, np.float32),
        "large": np.full(1, 1e4, np.float32),
        "half_max": np.full(1, 65504, np.float32),
        "half_min": np.full(1, -65504, np.float32),
        "scalar_0": np.array(0, np.float32),
        "scalar_255": np.array(255, np.float32),
        "scalar_i0": np.array(0, np.int64),
        "scalar_i1": np.array(1, np.int64),
        "filter_gain": np.full(1, 20, np.float32),
        "i_1": integers(1),
        "i0": integers(0),
        "i1": integers(1),
        "i2": integers(2),
        "i3": integers(3),
        "i4": integers(4),
        "i0_0": integers(0, 0),
        "i0_1": integers(0, 1),
        "i0_3": integers(0, 3),
        "stride": integers(_STRIDE, _STRIDE),
        "flat_shape": integers(1, 1, -1),
        "sequence_shape": integers(1, _WIDTH, -1),
    }


def _golden_inputs(size: tuple[int, int], random: np.random.Generator) -> list[dict[str, Array]]:
    """Two noisy gradients with their valid sizes; the second one is padded with zeros."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width]
    frames: list[dict[str, Array]] = []
    for valid in ((height, width), (max(1, height - 11), max(1, width - 21))):
        gradient = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], axis=-1)
        pixels = np.clip(200 * gradient + 40 * random.standard_normal((height, width, 3)) + 20, 0, 255).astype(np.uint8)
        pixels[valid[0] :] = 0
        pixels[:, valid[1] :] = 0
        frames.append({"pixels": pixels[None], "valid_size": np.array(valid, np.int64)})
    return frames


def _evaluate(model: Any, plan: GraphStage, frame: dict[str, Array]) -> None:
    """Add the stage's fp32 wire tensors or final outputs to a golden frame."""
    from onnx.reference import ReferenceEvaluator

    names = list(plan.wire_tensors or (tensor.name for tensor in plan.outputs))
    values: Any = ReferenceEvaluator(model).run(names, {tensor.name: frame[tensor.name] for tensor in plan.inputs})
    frame.update(zip(names, values, strict=True))
