"""The verbs `distill ...`: smaller students of a trained detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from .options import Json
from .verbs import app

distill = typer.Typer(
    no_args_is_help=True,
    help="Train smaller students of a detector: backbone, encoder, bottleneck, neural filter.",
    rich_markup_mode="markdown",
)
app.add_typer(distill, name="distill")

Teacher = Annotated[
    str, typer.Option(help="A checkpoint, the folder of a training, a bundle with torch weights, or a detector's name.")
]
Weights = Annotated[Optional[str], typer.Option(help="Of a named teacher: FILE, FOLDER or hub.")]  # noqa: UP045
Out = Annotated[Path, typer.Option(help="Folder for checkpoints, train.jsonl, curves.png and result.json.")]
Config = Annotated[
    str, typer.Option(help="Recipe: a TOML file, or a preset (launch/configs/distill-*.toml); a short one by default.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out, by its own recipe.")]
Epochs = Annotated[Optional[int], typer.Option(help="Of each phase, more or fewer than the recipe has.")]  # noqa: UP045
Seed = Annotated[Optional[int], typer.Option(help="Another start and other scenes.")]  # noqa: UP045
Size = Annotated[Optional[str], typer.Option(help="HxW of the network's input; the teacher's by default.")]  # noqa: UP045
Data = Annotated[Optional[str], typer.Option(help="scenes, or a COCO folder to train on.")]  # noqa: UP045
Validation = Annotated[Optional[str], typer.Option(help="scenes, or a COCO folder to choose the checkpoint by.")]  # noqa: UP045
HeldOut = Annotated[Optional[str], typer.Option(help="scenes, or a COCO folder to judge the result on.")]  # noqa: UP045
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[
    int, typer.Option(help="Compute threads of a process on the CPU; 0: as torch does, or 1 of several.")
]
Processes = Annotated[int, typer.Option(help="On a CPU: so many processes share every batch.")]
Bottleneck = Annotated[Optional[int], typer.Option(help="Channels on the wire.")]  # noqa: UP045
At = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="layer1 of the ResNet; projection, behind a DETR's 1x1 projection; p3 of an EfficientDet."),
]

Goal = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(help="What chooses the checkpoint: box, mask (of a Mask R-CNN), keypoint (of a Keypoint R-CNN)."),
]


@distill.command()
def sskd(
    out: Out,
    teacher: Teacher = "",
    weights: Weights = None,
    config: Config = "",
    resume: Resume = False,
    depth: Annotated[Optional[int], typer.Option(help="Of the student's ResNet: 18, 34, 50, 101.")] = None,  # noqa: UP045
    width: Annotated[Optional[int], typer.Option(help="Channels of its stem; 0: the teacher's.")] = None,  # noqa: UP045
    epochs: Epochs = None,
    seed: Seed = None,
    size: Size = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
    json: Json = False,
) -> int:
    """A smaller backbone for a DETR, stage by stage; the transformer stays as it is.

    Example: `splitrail distill sskd --teacher out/train --depth 18 --width 8 --out out/sskd`
    """
    changes = _changes(weights, seed, size, data, validation, held_out)
    changes |= {"student.depth": depth, "student.width": width}
    return _run("sskd", teacher, out, config, changes, epochs, resume, device, threads, processes, json)


@distill.command()
def encoder(
    out: Out,
    teacher: Teacher = "",
    weights: Weights = None,
    config: Config = "",
    resume: Resume = False,
    encoder_layers: Annotated[Optional[int], typer.Option(help="How many are left.")] = None,  # noqa: UP045
    epochs: Epochs = None,
    seed: Seed = None,
    size: Size = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
    json: Json = False,
) -> int:
    """Fewer encoder layers for a DETR, which learn what all of them give.

    Example: `splitrail distill encoder --teacher out/train --encoder-layers 1 --out out/encoder`
    """
    changes = _changes(weights, seed, size, data, validation, held_out) | {"student.encoder_layers": encoder_layers}
    return _run("encoder", teacher, out, config, changes, epochs, resume, device, threads, processes, json)


@distill.command()
def hnd(
    out: Out,
    teacher: Teacher = "",
    weights: Weights = None,
    config: Config = "",
    resume: Resume = False,
    bottleneck: Bottleneck = None,
    at: At = None,
    goal: Goal = None,
    epochs: Epochs = None,
    seed: Seed = None,
    size: Size = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
    json: Json = False,
) -> int:
    """A bottleneck that learns what the teacher gives at its place (head network distillation).

    Example: `splitrail distill hnd --teacher out/train --bottleneck 3 --out out/hnd3`
    """
    changes = _changes(weights, seed, size, data, validation, held_out)
    changes |= {"student.bottleneck": bottleneck, "student.bottleneck_at": at, "goal": goal}
    return _run("hnd", teacher, out, config, changes, epochs, resume, device, threads, processes, json)


@distill.command()
def ghnd(
    out: Out,
    teacher: Teacher = "",
    weights: Weights = None,
    config: Config = "",
    resume: Resume = False,
    bottleneck: Bottleneck = None,
    at: At = None,
    layer_weights: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of layer1 to layer4, of projection and memory, or of p3 to p5: 1,1,1,1 by default."),
    ] = None,
    goal: Goal = None,
    epochs: Epochs = None,
    seed: Seed = None,
    size: Size = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
    json: Json = False,
) -> int:
    """A bottleneck that learns what the teacher gives there and in the layers behind it (generalised HND).

    Example: `splitrail distill ghnd --teacher mask-rcnn-resnet50 --weights hub --config bottleneck --out out/ghnd3`
    """
    changes = _changes(weights, seed, size, data, validation, held_out)
    changes |= {
        "student.bottleneck": bottleneck,
        "student.bottleneck_at": at,
        "student.layer_weights": layer_weights.split(",") if layer_weights is not None else None,
        "goal": goal,
    }
    return _run("ghnd", teacher, out, config, changes, epochs, resume, device, threads, processes, json)


@distill.command()
def slimmable(
    out: Out,
    teacher: Teacher = "",
    weights: Weights = None,
    config: Config = "",
    resume: Resume = False,
    bottleneck: Annotated[Optional[int], typer.Option(help="Channels on the wire at width 1.")] = None,  # noqa: UP045
    at: At = None,
    widths: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Fractions of the channels, the largest 1: 0.25,0.5,0.75,1 by default."),
    ] = None,
    computation: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--computation/--bandwidth", help="The encoder follows the width, or only what is next to the wire."
        ),
    ] = None,
    num_widths: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="In each step: the narrowest, the widest, and random ones between."),
    ] = None,
    recalibrate: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Images over which the statistics of every width are taken anew at the end; 0: not."),
    ] = None,
    goal: Goal = None,
    epochs: Epochs = None,
    seed: Seed = None,
    size: Size = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
    json: Json = False,
) -> int:
    """A bottleneck with one set of weights for several widths, which a run may change from one frame to the next.

    Example: `splitrail distill slimmable --teacher out/train --bottleneck 32 --at projection --widths 0.25,0.5,1 --out out/slim`
    """
    changes = _changes(weights, seed, size, data, validation, held_out)
    changes |= {
        "student.bottleneck": bottleneck,
        "student.bottleneck_at": at,
        "student.widths": widths.split(",") if widths is not None else None,
        "student.configurable": None if computation is None else "computation" if computation else "bandwidth",
        "student.num_widths": num_widths,
        "student.recalibrate_images": recalibrate,
        "goal": goal,
    }
    return _run("slimmable", teacher, out, config, changes, epochs, resume, device, threads, processes, json)


@distill.command("filter")
def filter_command(
    out: Out,
    teacher: Teacher = "",
    weights: Weights = None,
    config: Config = "",
    resume: Resume = False,
    recall: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Share of the validation frames with objects that must pass; decides the threshold."),
    ] = None,
    labels: Annotated[Optional[str], typer.Option(help="What an object is: boxes, or visible keypoints.")] = None,  # noqa: UP045
    epochs: Epochs = None,
    seed: Seed = None,
    size: Size = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
    json: Json = False,
) -> int:
    """A neural filter that reads the stem of a frozen detector and tells frames without objects.

    Example: `splitrail distill filter --teacher out/ghnd3 --recall 0.98 --out out/filter`
    """
    changes = _changes(weights, seed, size, data, validation, held_out)
    changes |= {"filter.recall": recall, "filter.labels": labels}
    return _run("filter", teacher, out, config, changes, epochs, resume, device, threads, processes, json)


@distill.command()
def attach(
    what: Annotated[Path, typer.Argument(help="Folder of a filter's training.")],
    bundle: Annotated[Path, typer.Option(help="A bundle of its detector, cut behind the stem (l0).")],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; may be the same.")],
    threshold: Annotated[Optional[float], typer.Option(help="0 to 1; the one for its recall by default.")] = None,  # noqa: UP045
) -> int:
    """Add a trained neural filter, with its threshold, to a bundle.

    Example: `splitrail distill attach out/filter --bundle out/bundle --out out/filtered`
    """
    from .distill import attach_verb

    return attach_verb(what, bundle, out, threshold, Console(stderr=True))


@distill.command()
def table(
    teacher: Teacher,
    out: Annotated[Path, typer.Option(help="Folder for trainings, bundles, table.md, table.json and figures.")],
    part: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="distillation, slimmable; may be given twice; all by default."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes: shows that it runs, not what can be reached.")
    ] = False,
    minutes: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="What does not fit is left for a second call, and named in the table."),
    ] = None,
    epochs: Epochs = None,
    data: Data = None,
    validation: Validation = None,
    held_out: HeldOut = None,
    device: Device = "auto",
    threads: Threads = 0,
    processes: Processes = 1,
) -> int:
    """Every experiment of a DETR or an R-CNN in a row, and a table of accuracy and bytes. A second call goes on.

    Example: `splitrail distill table --quick --teacher out/train --out out/table`
    """
    from .distill_table import table_verb

    console = Console(stderr=True)
    sources = (data, validation, held_out)
    return table_verb(teacher, out, part or [], quick, minutes, epochs, *sources, device, threads, processes, console)


def _changes(
    weights: str | None,
    seed: int | None,
    size: str | None,
    data: str | None,
    validation: str | None,
    held_out: str | None,
) -> dict[str, Any]:
    from .export import parse_size

    return {
        "weights": weights,
        "seed": seed,
        "size": parse_size(size) if size else None,
        "data.train": data,
        "data.validation": validation,
        "data.held_out": held_out,
    }


def _run(
    task: str,
    teacher: str,
    out: Path,
    config: str,
    changes: dict[str, Any],
    epochs: int | None,
    resume: bool,
    device: str,
    threads: int,
    processes: int,
    json: bool,
) -> int:
    from .distill import distill_verb

    console = Console(stderr=True)
    return distill_verb(
        task,  # type: ignore[arg-type]
        teacher,
        out,
        config,
        changes,
        epochs,
        resume,
        device,
        threads,
        processes,
        json,
        console,
    )
