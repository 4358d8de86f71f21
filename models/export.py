"""A detector in torch to a bundle: one ONNX graph per segment, golden frames, manifest."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..pipeline.errors import BundleError, ConfigError
from ..pipeline.packet import Array
from ..stages.bundle import MANIFEST, Bundle, GraphStage, PostProcess, PreProcess, TorchModel, sha256_of
from .counts import max_cells, num_macs, num_parameters
from .cut import Segment, split
from .detr import Detr
from .golden import GoldenFrame, golden_frames
from .names import class_names, config_of
from .onnx_graph import check_graph, graph_inputs, graph_outputs, write_graph
from .random_init import random_detr
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
    cuts: Sequence[str] = ("projection",)
    """Any of `cut.CUTS`, in order; none for a single graph."""
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
    cuts: Sequence[str] = ("projection",),
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

    The other arguments are those of `ExportOptions`. Raises ConfigError for an unknown name, override or cut, WeightsError
    for weights that do not fit, BundleError where `out` cannot be written or is no bundle, ExportError when a graph
    disagrees with torch.
    """
    config = config_of(detector, overrides)
    options = ExportOptions(
        size, cuts, opset, classes, score_threshold, include_torch, num_golden, short_side, max_long_side
    )
    if weights is None:
        return write_bundle(random_detr(config, seed), detector, out, options, progress=progress)
    detr = Detr(config)
    loaded = load_weights(detr, weights, detector)
    options = dataclasses.replace(options, classes=options.classes or loaded.classes)
    return write_bundle(detr, detector, out, options, trained=loaded.source, progress=progress)


def write_bundle(
    detr: Detr,
    detector: str,
    out: str | os.PathLike[str],
    options: ExportOptions,
    *,
    trained: str = "",
    progress: Progress | None = None,
) -> Bundle:
    """Export `detr` with its present weights into the folder `out`, which appears, or is replaced, as a whole at the end.

    `detector` is the bundle's name for it; `trained` says in one line where the weights come from, empty for random ones.
    Raises as `export_bundle` does.
    """
    target = Path(out).resolve()
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise BundleError(f"{target} is there already and is no bundle; give another folder, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"no bundle can be written to {target} ({error.strerror}); give another folder") from error
    try:
        bundle = _write(_for_inference(detr), detector, partial, options, trained, progress or _silent)
        _publish(partial, target)
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be written to {target} ({error.strerror}); make room or give another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return bundle


def _write(detr: Detr, detector: str, folder: Path, options: ExportOptions, trained: str, progress: Progress) -> Bundle:
    config = detr.config
    segments = split(detr, options.cuts, options.size)
    classes = tuple(options.classes) if options.classes else class_names(config.num_classes)
    if len(classes) != config.num_classes:
        raise ConfigError(f"{len(classes)} class names were given for {config.num_classes} classes; give one for each")
    preprocess = PreProcess(size=options.size, short_side=options.short_side, max_long_side=options.max_long_side)
    steps = 2 * len(segments) + 1
    progress(0, steps, "golden frames")
    frames = golden_frames(preprocess, options.num_golden, seed=0)
    golden = [_run(segments, frame) for frame in frames]
    _save_golden(folder / _GOLDEN, golden)
    macs = num_macs(config, options.size or _DYNAMIC_MACS_SIZE)
    macs["decoder"] += macs.pop("heads")
    stages = []
    for index, segment in enumerate(segments):
        path = folder / f"{segment.name}.onnx"
        first = golden[0]
        example = (torch.from_numpy(first[segment.input_name]), torch.from_numpy(first["valid_size"]))
        progress(2 * index + 1, steps, f"{segment.name}: trace")
        write_graph(segment, example, path, options.opset)
        progress(2 * index + 2, steps, f"{segment.name}: compare with torch")
        for arrays in golden:
            check_graph(path, segment, arrays)
        outputs = graph_outputs(segment, example)
        stages.append(
            GraphStage(
                name=segment.name,
                graph=path.name,
                sha256=sha256_of(path),
                inputs=graph_inputs(segment, example),
                outputs=outputs,
                wire_tensors=(segment.wire_name,) if segment.wire_name else (),
                max_wire_bytes=_max_wire_bytes(detr, segment, outputs[0].shape, preprocess),
                num_parameters=num_parameters(detr, segment.prefixes).total,
                num_macs=sum(macs[part] for part in segment.parts),
            )
        )
    torch_model = None
    if options.include_torch:
        save_weights(detr, folder / _WEIGHTS)
        torch_model = TorchModel(
            weights=_WEIGHTS, sha256=sha256_of(folder / _WEIGHTS), arguments=dataclasses.asdict(config)
        )
    bundle = Bundle(
        detector=detector,
        classes=classes,
        preprocess=preprocess,
        postprocess=PostProcess(score_threshold=options.score_threshold),
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


def _save_golden(path: Path, golden: Sequence[Mapping[str, Array]]) -> None:
    """An .npz without times in it: the same detector exported twice is the same bundle."""
    with zipfile.ZipFile(path, "w") as archive:
        for index, arrays in enumerate(golden):
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{index}/{name}.npy"), content.getvalue())


def _max_wire_bytes(detr: Detr, segment: Segment, shape: tuple[int | str, ...], preprocess: PreProcess) -> int:
    """Largest float32 size of the tensor on the wire, [1, C, h, w]; 0 for the last segment."""
    if segment.wire_name is None:
        return 0
    num_channels = int(shape[1])
    if preprocess.size is not None:
        return 4 * num_channels * int(shape[2]) * int(shape[3])
    return 4 * num_channels * max_cells(preprocess.short_side, preprocess.max_long_side, detr.backbone.stride)


def _for_inference(detr: Detr) -> Detr:
    """The same weights, on the CPU in float32, with frozen normalisation; `detr` itself stays as it is."""
    with torch.device("meta"):
        fresh = Detr(dataclasses.replace(detr.config, norm="frozen"))
    state = {
        name: value.detach().float().cpu()
        for name, value in detr.state_dict().items()
        if not name.endswith(".num_batches_tracked")
    }
    fresh.load_state_dict(state, assign=True)
    return fresh.eval()


def _publish(partial: Path, target: Path) -> None:
    """Rename the finished folder, and what it replaces out of the way; all of it readable by everybody."""
    for file in partial.iterdir():
        file.chmod(0o644)
    partial.chmod(0o755)
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        os.rename(target, old)
        os.rename(partial, target)
        shutil.rmtree(old)
    else:
        os.rename(partial, target)


def _silent(done: int, total: int, text: str) -> None:
    """No progress is shown."""
