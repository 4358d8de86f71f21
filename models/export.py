"""A detector in torch to a bundle: one ONNX graph per segment, golden frames, manifest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..pipeline.errors import ConfigError
from ..pipeline.packet import Array
from ..stages.bundle import Bundle, GraphStage, PreProcess, TorchModel, sha256_of
from .bundle_folder import new_bundle_folder, save_golden
from .census import Census, census
from .counts import num_parameters
from .detector import (
    Config,
    build_detector,
    config_of_detector,
    for_inference,
    max_wire_cells,
    postprocess_of,
    preprocess_of,
    random_detector,
    split_detector,
)
from .golden import GoldenFrame, golden_frames
from .names import cuts_for, default_classes, model_config
from .onnx_graph import check_graph, graph_inputs, graph_outputs, write_graph
from .segment import Segment
from .weights import load_weights, save_weights

Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what is done now."""

_GOLDEN = "golden.npz"
_WEIGHTS = "weights.safetensors"
_SMALLEST_SIDE = 32
_DYNAMIC_MACS_SIZE = (800, 1066)


@dataclass(frozen=True)
class ExportOptions:
    """How a detector becomes a bundle."""

    size: tuple[int, int] | None = None
    """Height and width of the network's input, pixels; None for graphs that take any."""
    cuts: Sequence[str] | None = None
    """In order; none for a single graph; None for the one that suits the detector (`names.cuts_for`)."""
    opset: int = 17
    classes: Sequence[str] | None = None
    """Name by label; None for those that the weights come with, else COCO's or numbers."""
    score_threshold: float = 0.5
    include_torch: bool = False
    """Add the weights as safetensors, for the torch engine."""
    num_golden: int = 2
    short_side: int = 800
    max_long_side: int = 1333
    """Dynamic graphs: the sizes that images are scaled to (`PreProcess`)."""

    def __post_init__(self) -> None:
        sides = self.size or (self.short_side, self.max_long_side)
        if min(sides) < _SMALLEST_SIDE:
            raise ConfigError(
                f"an input of {sides[0]}x{sides[1]} is too small; give at least {_SMALLEST_SIDE} pixels a side"
            )
        if self.num_golden < 1:
            raise ConfigError(f"a bundle needs golden frames, not {self.num_golden}; give at least 1")
        if not 0 <= self.score_threshold <= 1:
            raise ConfigError(f"a score threshold of {self.score_threshold} is not in [0, 1]")


def export_bundle(
    detector: str,
    out: str | os.PathLike[str],
    *,
    weights: str | None = None,
    size: tuple[int, int] | None = None,
    cuts: Sequence[str] | None = None,
    bottleneck: int = 0,
    split: str = "",
    opset: int = 17,
    seed: int = 0,
    overrides: Mapping[str, int] | None = None,
    classes: Sequence[str] | None = None,
    score_threshold: float = 0.5,
    include_torch: bool = False,
    num_golden: int = 2,
    short_side: int = 800,
    max_long_side: int = 1333,
    progress: Progress | None = None,
) -> Bundle:
    """Export a named detector with `weights` (a file, a folder, "hub", or None for random ones by `seed`) into the folder `out`.

    `bottleneck` and `split` are those of `names.model_config`; the other arguments are those of `ExportOptions`. Raises
    ConfigError for an unknown name, override, split or cut, WeightsError for weights that do not fit, BundleError where `out`
    cannot be written or is no bundle, ExportError when a graph disagrees with torch.
    """
    config = model_config(detector, overrides, bottleneck=bottleneck, split=split)
    if cuts is None:
        cuts = cuts_for(config, split)
    options = ExportOptions(
        size, cuts, opset, classes, score_threshold, include_torch, num_golden, short_side, max_long_side
    )
    name = f"{detector}-bottleneck-{bottleneck}" if bottleneck else detector
    if weights is None:
        return write_bundle(random_detector(config, seed), name, out, options, progress=progress)
    model = build_detector(config)
    loaded = load_weights(model, weights, detector)
    options = dataclasses.replace(options, classes=options.classes or loaded.classes)
    return write_bundle(model, name, out, options, trained=loaded.source, progress=progress)


def write_bundle(
    model: nn.Module,
    detector: str,
    out: str | os.PathLike[str],
    options: ExportOptions,
    *,
    trained: str = "",
    progress: Progress | None = None,
) -> Bundle:
    """Export `model` (a `Detr` or an `Rcnn`) with its present weights into the folder `out`, which appears, or is replaced, as
    a whole at the end.

    `detector` is the bundle's name for it; `trained` says in one line where the weights come from, empty for random ones.
    Raises as `export_bundle` does.
    """
    with new_bundle_folder(out) as folder:
        return _write(for_inference(model), detector, folder, options, trained, progress or _silent)


def _write(
    model: nn.Module, detector: str, folder: Path, options: ExportOptions, trained: str, progress: Progress
) -> Bundle:
    config = config_of_detector(model)
    preprocess = preprocess_of(config, options.size, options.short_side, options.max_long_side)
    segments = split_detector(model, cuts_for(config) if options.cuts is None else options.cuts, preprocess)
    classes = tuple(options.classes) if options.classes else default_classes(config)
    if len(classes) != config.num_classes:
        raise ConfigError(f"{len(classes)} class names were given for {config.num_classes} classes; give one for each")
    steps = 2 * len(segments) + 1
    progress(0, steps, "golden frames")
    frames = golden_frames(preprocess, options.num_golden, seed=0)
    golden = [_run(segments, frame) for frame in frames]
    save_golden(folder / _GOLDEN, golden)
    counted = census(config, options.size or _DYNAMIC_MACS_SIZE)
    stages = []
    for index, segment in enumerate(segments):
        path = folder / f"{segment.name}.onnx"
        first = golden[0]
        example = (torch.from_numpy(first[segment.input_name]), torch.from_numpy(first["valid_size"]))
        progress(2 * index + 1, steps, f"{segment.name}: trace")
        outputs = graph_outputs(segment, example)
        write_graph(segment, example, outputs, path, options.opset)
        progress(2 * index + 2, steps, f"{segment.name}: compare with torch")
        for arrays in golden:
            check_graph(path, segment, arrays)
        stages.append(
            GraphStage(
                name=segment.name,
                graph=path.name,
                sha256=sha256_of(path),
                inputs=graph_inputs(segment, example),
                outputs=outputs,
                wire_tensors=(segment.wire_name,) if segment.wire_name else (),
                max_wire_bytes=_max_wire_bytes(config, segment, outputs[0].shape, preprocess),
                num_parameters=num_parameters(model, segment.prefixes).total,
                num_macs=_macs_between(counted, segments[index - 1].cut if index else None, segment.cut),
            )
        )
    torch_model = None
    if options.include_torch:
        save_weights(model, folder / _WEIGHTS)
        torch_model = TorchModel(
            weights=_WEIGHTS, sha256=sha256_of(folder / _WEIGHTS), arguments=dataclasses.asdict(config)
        )
    bundle = Bundle(
        detector=detector,
        classes=classes,
        preprocess=preprocess,
        postprocess=postprocess_of(config, options.score_threshold),
        stages=tuple(stages),
        golden=_GOLDEN,
        golden_sha256=sha256_of(folder / _GOLDEN),
        num_golden_frames=len(golden),
        torch_model=torch_model,
        opset=options.opset,
        trained=trained,
    )
    bundle.save(folder)
    progress(steps, steps, "done")
    return bundle


def _run(segments: Sequence[Segment], frame: GoldenFrame) -> dict[str, Array]:
    """Inputs, float32 wire tensors and outputs of one frame, by name."""
    arrays: dict[str, Array] = {"pixels": frame.pixels, "valid_size": frame.valid_size}
    for segment in segments:
        x = torch.from_numpy(arrays[segment.input_name])
        with torch.inference_mode():
            outputs = segment.compute(x, torch.from_numpy(frame.valid_size))
        arrays.update(zip(segment.fp32_names, (np.ascontiguousarray(value.numpy()) for value in outputs), strict=True))
    return arrays


def _max_wire_bytes(config: Config, segment: Segment, shape: tuple[int | str, ...], preprocess: PreProcess) -> int:
    """Largest float32 size of the tensor on the wire, [1, C, h, w]; 0 for the last segment."""
    if segment.cut is None:
        return 0
    return 4 * int(shape[1]) * max_wire_cells(config, segment.cut, preprocess)


def _macs_between(counted: Census, begin: str | None, end: str | None) -> int:
    """From behind the cut `begin` up to the cut `end`; None for the detector's own beginning and end."""
    last = counted.rows[-1] if end is None else counted.row_of(end)
    before = 0 if begin is None else counted.up_to(counted.row_of(begin))[1]
    return counted.up_to(last)[1] - before


def _silent(done: int, total: int, text: str) -> None:
    """No progress is shown."""
