"""A neural filter in torch joins a bundle: one more graph beside its chain."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..pipeline.errors import ConfigError, EngineError, UsageError
from ..pipeline.packet import Array
from ..stages.bundle import Bundle, GraphStage, GraphTensor, NeuralFilter, sha256_of
from ..stages.neural_filter import OBJECTNESS
from .bundle_folder import load_golden, new_bundle_folder, save_golden
from .filter import NeuralFilterNet
from .onnx_graph import MAX_OUTPUT_ERROR, ExportError

L0 = "l0"
"""The stem's output: what a bundle must have between two of its graphs (`splitrail export --cut l0,...`)."""
_GRAPH = "filter.onnx"


def add_filter(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    net: NeuralFilterNet,
    threshold: float,
    *,
    num_head_stages: int | None = None,
    trained: str = "",
) -> Bundle:
    """The bundle in `folder` with `net` behind its stem, written to `out`, which may be the same folder.

    A frame is empty when its objectness is below `threshold`. `num_head_stages` of its stages are the head, by default the
    stem and the next one, where a tail is left then. `trained` says where the filter's weights come from. Raises ConfigError:
    the bundle has no L0 between two graphs or one of other channels, or the threshold is outside [0, 1]; BundleError;
    ExportError where the graph differs from torch.
    """
    source = Path(folder)
    bundle = Bundle.load(source)
    if not 0 <= threshold <= 1:
        raise ConfigError(f"a filter threshold of {threshold:g} is not in [0, 1]; 0.1 is the published one")
    stem = next((stage for stage in bundle.stages if L0 in stage.wire_tensors), None)
    if stem is None:
        raise ConfigError(
            f"the bundle {source} is not cut behind its stem, where a filter reads; export it with --cut {L0},... first"
        )
    l0 = next(tensor for tensor in stem.outputs if tensor.name == L0)
    if l0.shape[1] != net.num_channels:
        raise ConfigError(
            f"the stem of {source} gives {l0.shape[1]} channels and the filter reads {net.num_channels}; "
            "train one for this detector"
        )
    if num_head_stages is None:
        num_head_stages = min(bundle.stages.index(stem) + 2, len(bundle.stages) - 1)
    golden = load_golden(source / bundle.golden, bundle.num_golden_frames)
    # A copy in evaluation mode: the one that is being trained stays as it is.
    fixed = NeuralFilterNet(net.num_channels)
    fixed.load_state_dict({name: value.detach().cpu() for name, value in net.state_dict().items()})
    graph = _Objectness(fixed).float().eval()
    with torch.inference_mode():
        for frame in golden:
            frame[OBJECTNESS] = graph(torch.from_numpy(np.asarray(frame[L0]))).numpy()
    with new_bundle_folder(out) as partial:
        for name in bundle.checksums():
            shutil.copyfile(source / name, partial / name)
        path = partial / _GRAPH
        _write_graph(graph, torch.from_numpy(np.asarray(golden[0][L0])), l0, path, bundle.opset)
        for frame in golden:
            _check_graph(path, frame)
        save_golden(partial / bundle.golden, golden)
        stage = GraphStage(
            name="filter",
            graph=_GRAPH,
            sha256=sha256_of(path),
            inputs=(l0,),
            outputs=(GraphTensor(name=OBJECTNESS, dtype="float32", shape=(1,)),),
            num_parameters=sum(parameter.numel() for parameter in fixed.parameters()),
            num_macs=num_macs(fixed),
        )
        made = bundle.model_copy(
            update={
                "golden_sha256": sha256_of(partial / bundle.golden),
                "num_head_stages": num_head_stages,
                "filter": NeuralFilter(graph=stage, after=stem.name, threshold=threshold, trained=trained),
            }
        )
        Bundle.model_validate(made.model_dump()).save(partial)
    return made


def num_macs(net: NeuralFilterNet) -> int:
    """Multiply-accumulates of the convolutions and the linear layer; the pooling before them is not counted."""
    counted = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, Tensor)
        counted += output[0, 0].numel() * weight.numel() if output.dim() == 4 else weight.numel()

    hooks = [
        module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    was_training = net.training
    with torch.inference_mode():
        net.eval()(torch.zeros(1, net.num_channels, 64, 64))
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    return counted


class _Objectness(nn.Module):
    """The filter as a graph: `l0` [1, C, h, w] to `objectness` [1]."""

    def __init__(self, net: NeuralFilterNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, l0: Tensor) -> Tensor:
        return self.net.objectness(l0)


def _write_graph(graph: nn.Module, example: Tensor, l0: GraphTensor, path: Path, opset: int) -> None:
    try:
        import onnx
    except ImportError as error:
        raise UsageError("onnx is not installed; pip install 'splitrail[torch]'") from error
    axes = {L0: {axis: size for axis, size in enumerate(l0.shape) if isinstance(size, str)}}
    with warnings.catch_warnings():
        # As in `onnx_graph.py`: the older exporter keeps to the opset.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        torch.onnx.export(
            graph,
            (example,),
            str(path),
            input_names=[L0],
            output_names=[OBJECTNESS],
            dynamic_axes=axes if axes[L0] else {},
            opset_version=opset,
            dynamo=False,
        )
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)


def _check_graph(path: Path, frame: dict[str, Array]) -> None:
    """Compare with torch in ONNX Runtime, where it is installed."""
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (found,) = session.run([OBJECTNESS], {L0: frame[L0]})
    except Exception as error:  # its exceptions share no base class
        raise EngineError(f"onnxruntime refuses {path.name}: {error}; export with another opset") from error
    distance = float(np.abs(found - frame[OBJECTNESS]).max())
    if not distance <= MAX_OUTPUT_ERROR:
        raise ExportError(
            f"{path.name}: {OBJECTNESS} in onnxruntime differs from torch by {distance:.2g}, more than {MAX_OUTPUT_ERROR:.0e}"
        )
