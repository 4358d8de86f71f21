"""The verb `export`: options to a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..pipeline.errors import ConfigError, UsageError

CUTS = ("l0", "bottleneck", "c5", "projection", "memory", "p3", "restored")
_DEFAULT_SIZE = "480x640"


def export_verb(
    detector: str,
    out: Path,
    weights: str | None,
    size: str,
    cut: str,
    bottleneck: int,
    opset: int,
    seed: int,
    torch_engine: bool,
    nms_iou: float | None,
    overrides: Mapping[str, int | None],
    console: Console,
    widths: str = "",
    computation: bool = False,
    num_golden: int = 2,
) -> None:
    """Export and say what was made. `overrides` are choices of the architecture, None where the name's own holds.

    `detector` is a name, or a checkpoint or the folder of a training, whose weights, size and classes then hold; `size`
    empty is 480x640 for a name, an EfficientDet's own. With `widths`, fractions joined by commas, the bundle is adaptive; without
    a `bottleneck` theirs is then the widest worth trying. Of a slimmable training they are those that the bundle has. Raises
    ConfigError for options that do not parse or do not go together.
    """
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError("export needs torch and onnx; add them with: pip install 'splitrail[torch]'") from error
    from ..models.efficientdet_config import EFFICIENTDETS
    from ..models.export import ExportOptions, export_bundle

    chosen = {name: value for name, value in overrides.items() if value is not None}
    is_training = Path(detector).exists()
    if is_training and (weights is not None or size or bottleneck or chosen or computation):
        raise ConfigError(
            f"{detector} is a training, which has weights, size and layers of its own; leave those options out"
        )
    cuts = parse_cuts(cut) if cut else None
    split = cuts[0] if cuts is not None and len(cuts) == 1 else ""
    if bottleneck and cuts is not None and "projection" in cuts and "bottleneck" not in cuts:
        # The bottleneck behind the projection is cut in its middle.
        split, cuts = "projection", tuple("bottleneck" if each == "projection" else each for each in cuts)
    fractions = parse_widths(widths)
    if fractions and not is_training:
        if not bottleneck:
            bottleneck, split = widest_bottleneck(detector, split)
        if cuts is not None and len(cuts) == 1:
            cuts = None  # that of the bottleneck, and those around it
    is_efficientdet = detector in EFFICIENTDETS
    if is_efficientdet and size == "dynamic":
        raise ConfigError(f"{detector} cannot be exported with --size dynamic; give HxW, or leave --size out")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"exporting {detector}", total=None)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        if is_training:
            from ..distill.finished import export_checkpoint

            options = ExportOptions(
                cuts=cuts,
                opset=opset,
                nms_iou=nms_iou,
                include_torch=torch_engine,
                num_golden=num_golden,
                widths=fractions,
            )
            bundle = export_checkpoint(Path(detector), out, options, progress=show)
        else:
            bundle = export_bundle(
                detector,
                out,
                weights=weights,
                size=None if is_efficientdet and not size else parse_size(size or _DEFAULT_SIZE),
                cuts=cuts,
                bottleneck=bottleneck,
                split=split,
                widths=fractions,
                computation=computation,
                opset=opset,
                seed=seed,
                nms_iou=nms_iou,
                include_torch=torch_engine,
                num_golden=num_golden,
                overrides=chosen,
                progress=show,
            )
    for stage in bundle.stages:
        wire = ", ".join(stage.wire_tensors) or ", ".join(tensor.name for tensor in stage.outputs)
        console.print(
            f"{stage.name}: {stage.num_parameters:,} parameters, {stage.num_macs / 1e9:.2f} GMAC, ends in {wire}",
            highlight=False,
        )
    for width in bundle.widths[:-1]:
        names = ", ".join(stage.name for each in bundle.narrower if each.width == width for stage in each.stages)
        console.print(f"width {width:g}: another {names}", highlight=False)
    console.print(
        f"{out}: {bundle.detector}, opset {bundle.opset}, {bundle.trained or 'random weights'}", highlight=False
    )


def parse_size(text: str) -> tuple[int, int] | None:
    """HxW, or dynamic."""
    if text == "dynamic":
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ConfigError(f"--size {text!r} is neither HxW (such as 480x640) nor dynamic")
    return int(match[1]), int(match[2])


def parse_widths(text: str) -> tuple[float, ...]:
    """Fractions joined by commas; none for an empty text."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise ConfigError(f"--widths {text!r} are no fractions joined by commas, such as 0.25,0.5,1") from error


def widest_bottleneck(detector: str, split: str) -> tuple[int, str]:
    """Channels of the widest bottleneck worth trying, and the split that puts it where this detector gains most by it."""
    from ..models.bottleneck import LAYER1_CHANNELS, PROJECTION_CHANNELS
    from ..models.efficientdet_config import CHANNELS, EFFICIENTDETS
    from ..models.names import RCNNS

    if detector in EFFICIENTDETS:
        return max(CHANNELS[EFFICIENTDETS[detector].level]), split
    if detector in RCNNS or split == "bottleneck":
        return max(LAYER1_CHANNELS), split
    return max(PROJECTION_CHANNELS), split or "projection"


def parse_cuts(text: str) -> tuple[str, ...]:
    """Cuts in order, joined by commas, or none, which is to cut before the input."""
    if text in ("none", "input"):
        return ()
    cuts = tuple(text.split(","))
    unknown = [cut for cut in cuts if cut not in CUTS]
    if unknown:
        raise ConfigError(
            f"--cut {unknown[0]!r} is unknown; cuts are {', '.join(CUTS)}, several joined by commas, or none"
        )
    return cuts
