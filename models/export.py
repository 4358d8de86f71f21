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
from ..stages.bundle import Bundle, BundleWidth, GraphStage, PreProcess, TorchModel, sha256_of
from ..stages.nms_choice import parse_nms_iou, with_nms
from .bundle_folder import new_bundle_folder, save_golden
from .census import Census, census
from .counts import num_parameters
from .detector import (
    Config,
    build_detector,
    config_of_detector,
    for_inference,
    max_wire_cells,
    num_labels,
    postprocess_of,
    preprocess_of,
    random_detector,
    split_detector,
)
from .efficientdet_config import EfficientDetConfig
from .golden import golden_frames
from .names import cuts_for, default_classes, model_config
from .onnx_graph import check_graph, graph_inputs, graph_outputs, write_graph
from .segment import Segment
from .slimmable import SlimmableBatchNorm2d, SlimmableConv2d, sliced
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
    nms_iou: float | None = None
    """Of a DETR's boxes of one class that overlap more, the worse goes; None as published: none does."""
    include_torch: bool = False
    """Add the weights as safetensors, for the torch engine."""
    num_golden: int = 2
    short_side: int = 800
    max_long_side: int = 1333
    """Dynamic graphs: the sizes that images are scaled to (`PreProcess`)."""
    widths: tuple[float, ...] = ()
    """Those of a slimmable detector's that the bundle has, 1 among them; none: all."""

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
        if self.nms_iou is not None:
            parse_nms_iou(self.nms_iou)


def export_bundle(
    detector: str,
    out: str | os.PathLike[str],
    *,
    weights: str | None = None,
    size: tuple[int, int] | None = None,
    cuts: Sequence[str] | None = None,
    bottleneck: int = 0,
    split: str = "",
    widths: Sequence[float] = (),
    computation: bool = False,
    opset: int = 17,
    seed: int = 0,
    overrides: Mapping[str, int] | None = None,
    classes: Sequence[str] | None = None,
    score_threshold: float = 0.5,
    nms_iou: float | None = None,
    include_torch: bool = False,
    num_golden: int = 2,
    short_side: int = 800,
    max_long_side: int = 1333,
    progress: Progress | None = None,
) -> Bundle:
    """Export a named detector with `weights` (a file, a folder, "hub", or None for random ones by `seed`) into the folder `out`.

    `bottleneck`, `split`, `widths` and `computation` are those of `names.model_config`; with widths the bundle is adaptive. The
    other arguments are those of `ExportOptions`. Raises ConfigError for an unknown name, override, split or cut, or widths that
    cannot be, WeightsError for weights that do not fit, BundleError where `out` cannot be written or is no bundle, ExportError
    when a graph disagrees with torch.
    """
    config = model_config(
        detector, overrides, bottleneck=bottleneck, split=split, widths=widths, computation=computation
    )
    if isinstance(config, EfficientDetConfig) and size is not None:
        config = dataclasses.replace(config, size=size)
    if cuts is None:
        cuts = cuts_for(config, split)
    options = ExportOptions(
        size, cuts, opset, classes, score_threshold, nms_iou, include_torch, num_golden, short_side, max_long_side
    )
    name = f"{detector}-bottleneck-{bottleneck}" if bottleneck else detector
    if config.widths:
        name += "-slimmable"
    if weights is None:
        return write_bundle(random_detector(config, seed), name, out, options, progress=progress)
    model = build_detector(config)
    if isinstance(config, EfficientDetConfig):
        from .efficientdet import EfficientDet
        from .efficientdet_weights import load_efficientdet

        assert isinstance(model, EfficientDet)
        source = load_efficientdet(model, weights)
    else:
        loaded = load_weights(model, weights, detector)
        source = loaded.source
        options = dataclasses.replace(options, classes=options.classes or loaded.classes)
    return write_bundle(model, name, out, options, trained=source, progress=progress)


def write_bundle(
    model: nn.Module,
    detector: str,
    out: str | os.PathLike[str],
    options: ExportOptions,
    *,
    trained: str = "",
    progress: Progress | None = None,
) -> Bundle:
    """Export `model` (what `build_detector` makes) with its present weights into the folder `out`, which appears, or is replaced,
    as a whole at the end. A slimmable one becomes an adaptive bundle: what differs between widths is there once for each, all
    else once.

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
    postprocess = with_nms(postprocess_of(config, options.score_threshold), options.nms_iou)
    cuts = cuts_for(config) if options.cuts is None else tuple(options.cuts)
    if config.widths and "bottleneck" not in cuts:
        raise ConfigError(
            f"a detector of several widths is cut at its bottleneck, and the cuts are {', '.join(cuts) or 'none'}; "
            f"leave --cut out"
        )
    classes = tuple(options.classes) if options.classes else default_classes(config)
    if len(classes) != num_labels(config):
        raise ConfigError(f"{len(classes)} class names were given for {num_labels(config)} classes; give one for each")
    widths = _widths(config.widths, options.widths)
    segments = split_detector(model, cuts, preprocess)
    slimmed = [index for index, segment in enumerate(segments) if _is_slimmable(model, segment)]
    # Every graph is made, then compared with torch.
    num_steps = 2 * (len(segments) + len(widths[:-1]) * len(slimmed)) + 1
    progress(0, num_steps, "golden frames")
    frames = golden_frames(preprocess, options.num_golden, seed=0)
    golden: list[dict[str, Array]] = [{"pixels": frame.pixels, "valid_size": frame.valid_size} for frame in frames]
    made: dict[float, tuple[GraphStage, ...]] = {}
    num_done = 0
    for width in reversed(widths or (1.0,)):
        fixed = sliced(model, width) if config.widths else model
        segments = split_detector(fixed, cuts, preprocess)
        counted = census(config, preprocess.size or _DYNAMIC_MACS_SIZE, width)
        begin, indices = (0, range(len(segments))) if width == 1 else (slimmed[0], slimmed)
        runs = [_run(segments[begin:], arrays) for arrays in golden]
        stages = []
        for index in indices:
            segment = segments[index]
            path = folder / (f"{segment.name}.onnx" if width == 1 else f"{segment.name}-{width!r}.onnx")
            progress(num_done + 1, num_steps, f"{path.stem}: trace")
            before = segments[index - 1].cut if index else None
            stages.append(_graph(fixed, segment, before, runs, path, counted, preprocess, options.opset))
            progress(num_done + 2, num_steps, f"{path.stem}: compare with torch")
            for run in runs:
                check_graph(path, segment, run)
            num_done += 2
        made[width] = tuple(stages)
        names = [name for segment in segments[begin:] for name in segment.fp32_names]
        for arrays, run in zip(golden, runs, strict=True):
            arrays.update({name if width == 1 else f"{name}@{width!r}": run[name] for name in names})
    save_golden(folder / _GOLDEN, golden)
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
        postprocess=postprocess,
        stages=made[1.0],
        golden=_GOLDEN,
        golden_sha256=sha256_of(folder / _GOLDEN),
        num_golden_frames=len(golden),
        torch_model=torch_model,
        opset=options.opset,
        trained=trained,
        num_head_stages=cuts.index("bottleneck") + 1 if config.widths else 1,
        narrower=tuple(BundleWidth(width=width, stages=made[width]) for width in widths[:-1]),
    )
    bundle.save(folder)
    progress(num_steps, num_steps, "done")
    return bundle


def _widths(known: Sequence[float], wanted: Sequence[float]) -> tuple[float, ...]:
    """The wanted ones, increasing; all for none. Raises ConfigError unless they are known and 1 is among them."""
    chosen = tuple(sorted(set(wanted))) or tuple(known)
    if wanted and (not set(chosen) <= set(known) or chosen[-1] != 1):
        raise ConfigError(
            f"the widths {', '.join(map(str, wanted))} are not to be had; choose among "
            f"{', '.join(map(str, known)) or 'none, since this detector is not slimmable'}, 1 among them"
        )
    return chosen


def _graph(
    model: nn.Module,
    segment: Segment,
    before: str | None,
    runs: Sequence[Mapping[str, Array]],
    path: Path,
    counted: Census,
    preprocess: PreProcess,
    opset: int,
) -> GraphStage:
    """Write one segment of `model`, which begins behind the cut `before`; `runs` have its tensors for each golden frame."""
    example = (torch.from_numpy(runs[0][segment.input_name]), torch.from_numpy(runs[0]["valid_size"]))
    outputs = graph_outputs(segment, example)
    write_graph(segment, example, outputs, path, opset)
    return GraphStage(
        name=segment.name,
        graph=path.name,
        sha256=sha256_of(path),
        inputs=graph_inputs(segment, example),
        outputs=outputs,
        wire_tensors=(segment.wire_name,) if segment.wire_name else (),
        max_wire_bytes=_max_wire_bytes(config_of_detector(model), segment, outputs[0].shape, preprocess),
        num_parameters=num_parameters(model, segment.prefixes).total,
        num_macs=_macs_between(counted, before, segment.cut),
    )


def _is_slimmable(model: nn.Module, segment: Segment) -> bool:
    """Whether anything in it follows the width."""
    return any(
        isinstance(module, SlimmableConv2d | SlimmableBatchNorm2d) and name.startswith(segment.prefixes)
        for name, module in model.named_modules()
    )


def _run(segments: Sequence[Segment], before: Mapping[str, Array]) -> dict[str, Array]:
    """What `before` has, and the float32 wire tensors and outputs of the segments, which read it; by name."""
    arrays = dict(before)
    valid_size = torch.from_numpy(arrays["valid_size"])
    for segment in segments:
        with torch.inference_mode():
            outputs = segment.compute(torch.from_numpy(arrays[segment.input_name]), valid_size)
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
