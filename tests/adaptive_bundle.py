"""A tiny adaptive bundle: the synthetic detector of two graphs, its features cut to fewer channels at narrower widths."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from splitrail.stages.bundle import Bundle, BundleWidth, MeasuredAccuracy, sha256_of
from splitrail.stages.synthetic_bundle import make_synthetic_bundle

CHANNELS = 16


def make_adaptive_bundle(folder, widths=(0.25, 0.5), size=(64, 96), accuracies=True, **options):
    """Backbone || transformer; a narrower backbone gives the first channels, a narrower transformer puts zeros for the others."""
    bundle = make_synthetic_bundle(folder, size=size, **options)
    golden = dict(np.load(folder / "golden.npz", allow_pickle=False))
    narrower = []
    for width in widths:
        channels = round(CHANNELS * width)
        stages = []
        for stage, narrow in zip(bundle.stages, (_narrow_backbone, _narrow_transformer), strict=True):
            model = narrow(onnx.load(str(folder / stage.graph)), channels)
            name = f"{stage.name}-{width:g}.onnx"
            onnx.save_model(model, str(folder / name))
            tensors = {
                side: tuple(
                    tensor.model_copy(update={"shape": (1, channels, *tensor.shape[2:])})
                    if tensor.name.startswith("features") and len(tensor.shape) == 4
                    else tensor
                    for tensor in getattr(stage, side)
                )
                for side in ("inputs", "outputs")
            }
            stages.append(
                stage.model_copy(
                    update={
                        "graph": name,
                        "sha256": sha256_of(folder / name),
                        "max_wire_bytes": round(stage.max_wire_bytes * width),
                        **tensors,
                    }
                )
            )
            for index in range(bundle.num_golden_frames):
                frame = {key.partition("/")[2]: value for key, value in golden.items() if key.startswith(f"{index}/")}
                frame |= {key.partition("@")[0]: value for key, value in frame.items() if key.endswith(f"@{width:g}")}
                names = list(stage.wire_tensors or [tensor.name for tensor in stage.outputs])
                inputs = {tensor.name: frame[tensor.name] for tensor in stage.inputs}
                for output, value in zip(names, ReferenceEvaluator(model).run(names, inputs), strict=True):
                    golden[f"{index}/{output}@{width:g}"] = value
        narrower.append(BundleWidth(width=width, stages=tuple(stages)))
    np.savez(folder / "golden.npz", allow_pickle=False, **golden)
    adaptive = bundle.model_copy(
        update={
            "narrower": tuple(narrower),
            "golden_sha256": sha256_of(folder / "golden.npz"),
            "accuracy": _accuracies(bundle, widths) if accuracies else (),
        }
    )
    adaptive.save(folder)
    return Bundle.load(folder)


def one_width(source, target, width):
    """That width as an ordinary bundle in a folder of its own."""
    bundle = Bundle.load(source)
    target.mkdir()
    for name in bundle.checksums():
        (target / name).write_bytes((source / name).read_bytes())
    view = bundle.at_width(width)
    golden = {f"{i}/{name}": a for i, frame in enumerate(view.golden_frames(source)) for name, a in frame.items()}
    np.savez(target / "golden.npz", allow_pickle=False, **golden)
    view.model_copy(update={"width": 1.0, "accuracy": (), "golden_sha256": sha256_of(target / "golden.npz")}).save(
        target
    )
    return target


def _accuracies(bundle, widths):
    """Made up: wider and finer is better."""
    elements = bundle.stages[0].max_wire_bytes / 4
    common = {"data": "made up", "num_images": 1}
    rows = [
        MeasuredAccuracy(
            width=width, wire=wire, bytes_per_frame=elements * width * size, box_map=0.3 + 0.1 * width + bonus, **common
        )
        for width in (*widths, 1.0)
        for wire, size, bonus in (("fp16", 2, 0.02), ("uint8", 1, 0.01), ("uint4", 0.5, 0.0))
    ]
    rows.append(MeasuredAccuracy(way="local", wire="fp32", bytes_per_frame=0, box_map=0.425, **common))
    rows += [
        MeasuredAccuracy(
            way="offload",
            wire="fp32",
            jpeg_quality=quality,
            bytes_per_frame=50 * quality,
            box_map=0.3 + quality / 1000,
            **common,
        )
        for quality in (50, 90)
    ]
    return tuple(rows)


def _narrow_backbone(model, channels):
    for index, initializer in enumerate(model.graph.initializer):
        if initializer.name == "feature_weight":
            weight = numpy_helper.to_array(initializer)[:channels]
            model.graph.initializer[index].CopyFrom(
                numpy_helper.from_array(np.ascontiguousarray(weight), "feature_weight")
            )
    for output in model.graph.output:
        if output.name.startswith("features") and len(output.type.tensor_type.shape.dim) == 4:
            output.type.tensor_type.shape.dim[1].dim_value = channels
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def _narrow_transformer(model, channels):
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "features":
                node.input[index] = "all_features"
    pads = np.array([0, 0, 0, 0, 0, CHANNELS - channels, 0, 0], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(pads, "channel_pads"))
    model.graph.node.insert(0, helper.make_node("Pad", ["features", "channel_pads"], ["all_features"]))
    for tensor in model.graph.input:
        if tensor.name == "features":
            tensor.type.tensor_type.shape.dim[1].dim_value = channels
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model
