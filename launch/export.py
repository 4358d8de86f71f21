"""The verb `export`: options to a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..pipeline.errors import ConfigError, UsageError

CUTS = ("l0", "bottleneck", "c5", "projection", "memory")
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
    overrides: Mapping[str, int | None],
    console: Console,
) -> None:
    """Export and say what was made. `overrides` are choices of the architecture, None where the name's own holds.

    `detector` is a name, or a checkpoint or the folder of a training, whose weights, size and classes then hold; `size`
    empty is 480x640 for a name. Raises ConfigError for options that do not parse or do not go together.
    """
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError("export needs torch and onnx; add them with: pip install 'splitrail[torch]'") from error
    from ..models.export import ExportOptions, export_bundle

    chosen = {name: value for name, value in overrides.items() if value is not None}
    is_training = Path(detector).exists()
    if is_training and (weights is not None or size or bottleneck or chosen):
        raise ConfigError(
            f"{detector} is a training, which has weights, size and layers of its own; give only --cut and --opset"
        )
    cuts = parse_cuts(cut) if cut else None
    split = cuts[0] if cuts is not None and len(cuts) == 1 else ""
    if bottleneck and cuts is not None and "projection" in cuts and "bottleneck" not in cuts:
        # The bottleneck behind the projection is cut in its middle.
        split, cuts = "projection", tuple("bottleneck" if each == "projection" else each for each in cuts)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"exporting {detector}", total=None)

        def show(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)

        if is_training:
            from ..distill.finished import export_checkpoint

            options = ExportOptions(cuts=cuts, opset=opset, include_torch=torch_engine)
            bundle = export_checkpoint(Path(detector), out, options, progress=show)
        else:
            bundle = export_bundle(
                detector,
                out,
                weights=weights,
                size=parse_size(size or _DEFAULT_SIZE),
                cuts=cuts,
                bottleneck=bottleneck,
                split=split,
                opset=opset,
                seed=seed,
                include_torch=torch_engine,
                overrides=chosen,
                progress=show,
            )
    for stage in bundle.stages:
        wire = ", ".join(stage.wire_tensors) or ", ".join(tensor.name for tensor in stage.outputs)
        console.print(
            f"{stage.name}: {stage.num_parameters:,} parameters, {stage.num_macs / 1e9:.2f} GMAC, ends in {wire}",
            highlight=False,
        )
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
