"""The verbs of `splitrail` and their options. Each calls one function elsewhere."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from .. import __version__
from ..pipeline.errors import ConfigError
from .config import DEFAULT_BUNDLE, RunConfig, read_mapping
from .options import (
    Adapt,
    AdaptPolicy,
    AdaptWays,
    AdaptWires,
    Delay,
    GraphMemory,
    Hostfile,
    Json,
    NetNs,
    NmsIou,
    Rate,
    RateSteps,
)

# typer reads the annotations at run time, and its options are spelled Optional for Python 3.10.
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Cut an object detector between an edge device and a workstation and stream video through it over MPI.",
)

_RUN_KEYS = {
    "source": ("source", "uri"),
    "stride": ("source", "stride"),
    "max_frames": ("source", "max_frames"),
    "loop": ("source", "loop"),
    "rate": ("source", "rate_fps"),
    "video": ("sink", "video"),
    "frames": ("sink", "frames"),
    "csv": ("sink", "csv"),
    "coco": ("sink", "coco"),
    "coco_annotations": ("sink", "coco_annotations"),
    "show": ("sink", "show"),
    "stall_timeout": ("", "stall_timeout_s"),
}
"""Option of `run` -> table and key of the configuration, where they differ."""
_ADAPT = ("adapt", "adapt_policy", "adapt_ways", "adapt_wires", "max_graph_memory")
_LINK = ("netns", "link_rate", "link_delay", "link_rate_steps")
_NOT_IN_CONFIG = ("config", "hostfile", "dry_run", "json", *_LINK, *_ADAPT)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def run(
    context: typer.Context,
    source: Annotated[
        str, typer.Option(help="Video file, folder, glob, .txt list, camera index, RTSP or HTTP URL.")
    ] = "",
    out: Annotated[str, typer.Option(help="Folder for the results.")] = "",
    bundle: Annotated[str, typer.Option(help="Folder of the detector, or an embedded one by name.")] = DEFAULT_BUNDLE,
    placement: Annotated[
        str, typer.Option(help="full, split (or backbone), transformer, offload, three-ranks, or a .toml file.")
    ] = "backbone",
    engine: Annotated[
        str, typer.Option(help="auto, onnxruntime, openvino[:bf16], tensorrt[:fp16|int8], torch[:bf16|fp16].")
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="For torch: cpu or cuda; cuda:1 is the second GPU, for tensorrt too.")
    ] = "cpu",
    wire: Annotated[
        str, typer.Option(help="What features travel as: fp32, fp16, or uint8|6|4[-channel][+zstd] (docs/wire.md).")
    ] = "fp16",
    filter: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(help="End frames without an object at the edge; on where the bundle has a neural filter."),
    ] = None,
    filter_threshold: Annotated[Optional[float], typer.Option(help="0 to 1; the bundle's own by default.")] = None,  # noqa: UP045
    image_wire: Annotated[str, typer.Option(help="What images travel as: raw or jpeg.")] = "raw",
    jpeg_quality: Annotated[int, typer.Option(help="1 to 100.")] = 90,
    overlap: Annotated[str, typer.Option(help="full, or a baseline: naive, blocking.")] = "full",
    policy: Annotated[str, typer.Option(help="auto, wait, drop-oldest, drop-newest.")] = "auto",
    single_stream: Annotated[
        bool, typer.Option("--single-stream", help="Capture a frame when the one before has its result.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Compute threads of a rank; 0: its share of the host's cores.")] = 0,
    stride: Annotated[int, typer.Option(help="Take every n-th frame.")] = 1,
    max_frames: Annotated[Optional[int], typer.Option(help="End after so many frames.")] = None,  # noqa: UP045
    loop: Annotated[bool, typer.Option("--loop", help="Start the source again at its end.")] = False,
    rate: Annotated[Optional[float], typer.Option(help="Play a file at this rate, FPS, as a camera would.")] = None,  # noqa: UP045
    source_rank: Annotated[Optional[int], typer.Option(help="Put source and sink on this rank.")] = None,  # noqa: UP045
    sink_rank: Annotated[Optional[int], typer.Option(help="Put the sink on this rank.")] = None,  # noqa: UP045
    score_threshold: Annotated[Optional[float], typer.Option(help="0 to 1; the bundle's own by default.")] = None,  # noqa: UP045
    nms_iou: NmsIou = None,
    video: Annotated[Optional[bool], typer.Option(help="Annotated video; on where the images are.")] = None,  # noqa: UP045
    frames: Annotated[bool, typer.Option("--frames", help="Annotated frames as JPEG.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Detections as CSV.")] = False,
    coco: Annotated[bool, typer.Option("--coco", help="COCO results JSON.")] = False,
    coco_annotations: Annotated[Optional[str], typer.Option(help="Maps file names to COCO image ids.")] = None,  # noqa: UP045
    show: Annotated[bool, typer.Option("--show", help="Show the results in a window.")] = False,
    stall_timeout: Annotated[float, typer.Option(help="End when nothing moved for so long, s.")] = 60.0,
    payload_crc: Annotated[bool, typer.Option("--payload-crc", help="Checksum every payload (4 ms for 7 MB).")] = False,
    measure_power: Annotated[
        bool, typer.Option("--measure-power", help="Sample the power meters, after some seconds of idling.")
    ] = False,
    adapt: Adapt = "",
    adapt_policy: AdaptPolicy = "",
    adapt_ways: AdaptWays = "",
    adapt_wires: AdaptWires = "",
    max_graph_memory: GraphMemory = 0.0,
    config: Annotated[Optional[Path], typer.Option(help="TOML with these keys; options given here win.")] = None,  # noqa: UP045
    hostfile: Hostfile = None,
    netns: NetNs = False,
    link_rate: Rate = "",
    link_delay: Delay = "",
    link_rate_steps: RateSteps = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the mpirun command and do nothing.")] = False,
    json: Json = False,
) -> int:
    """Stream a source through a detector, split over MPI ranks. Starts mpirun itself.

    Example: `splitrail run --placement backbone --source cam.mp4 --out out/`
    """
    from .adapt_config import adapt_options
    from .link import Link
    from .rate_trace import RateTrace
    from .run import start

    raw = read_mapping(config) if config is not None else {}
    for name, value in context.params.items():
        table, key = _RUN_KEYS.get(name, ("", name))
        # What the file says holds unless the option was given.
        given = context.get_parameter_source(name)
        by_hand = given is not None and given.name not in ("DEFAULT", "DEFAULT_MAP")
        if name in _NOT_IN_CONFIG or not (by_hand or config is None):
            continue
        values = raw.setdefault(table, {}) if table else raw
        # Anything but a table is refused with the file's name when the configuration is checked.
        if isinstance(values, dict):
            values[key] = value
    adapt_options(raw, *(context.params[name] for name in _ADAPT))
    raw["command"] = shlex.join(["splitrail", *sys.argv[1:]])
    source_table = raw.get("source")
    for key, value in (
        ("--source", source_table.get("uri") if isinstance(source_table, dict) else source_table),
        ("--out", raw.get("out")),
    ):
        if not value:
            raise ConfigError(f"{key} is missing; see 'splitrail run --help'")
    where = str(config) if config is not None else "the options"
    link = Link(netns, link_rate or None, link_delay or None, steps=RateTrace.parse(link_rate_steps))
    return start(RunConfig.check(raw, where), hostfile=hostfile, link=link, dry_run=dry_run, as_json=json)


@app.command()
def rank(config: Annotated[Optional[Path], typer.Option(help="The run, on rank 0 only.")] = None) -> int:  # noqa: UP045
    """What mpirun starts on every host, one per rank.

    Example: `mpirun -np 1 --host edge splitrail rank --config run.toml : -np 1 --host workstation splitrail rank`
    """
    # `cli.main` takes this verb before the command line library is loaded; here it is for `splitrail --help`.
    from .rank import main as rank_main
    from .stop_request import StopRequest

    return rank_main(None if config is None else str(config), StopRequest())


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/demo"),
    json: Json = False,
) -> int:
    """Stream the embedded clip through the embedded detector on two ranks of this machine.

    Example: `splitrail demo`
    """
    from .demo import run_demo

    return run_demo(out, as_json=json)


@app.command()
def doctor(
    hostfile: Hostfile = None,
    json: Json = False,
) -> int:
    """What each host has: Python, MPI, engines, sensors; round trip and rate between the hosts.

    Example: `splitrail doctor --hostfile hostfiles/tx2-workstation.txt`
    """
    from .doctor import doctor as run_doctor
    from .hostfile import Hosts

    return run_doctor(Hosts.load(hostfile) if hostfile is not None else None, as_json=json)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, train.jsonl and curves.png.")],
    config: Annotated[str, typer.Option(help="Recipe: a TOML file, or a preset such as demo (launch/configs).")] = "",
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Checkpoint or folder to go on from, by its own recipe or by --config."),
    ] = None,
    epochs: Annotated[Optional[int], typer.Option(help="More or fewer than the recipe has.")] = None,  # noqa: UP045
    data: Annotated[Optional[str], typer.Option(help="scenes, or a COCO folder to train on.")] = None,  # noqa: UP045
    validation: Annotated[Optional[str], typer.Option(help="scenes, or a COCO folder.")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int, typer.Option(help="Compute threads of a process on the CPU; 0: as many as torch takes, or 1 of several.")
    ] = 0,
    processes: Annotated[
        int, typer.Option(help="On a CPU: so many processes share every batch, faster than threads on a small network.")
    ] = 1,
) -> int:
    """Train a DETR or a Faster R-CNN on generated scenes or on a folder in COCO's layout.

    Example: `splitrail train --config demo --out out/train --processes 2`
    """
    from .train import train_verb

    return train_verb(config, out, resume, epochs, data, validation, device, threads, processes, Console(stderr=True))


@app.command()
def evaluate(
    what: Annotated[Path, typer.Argument(help="A bundle, a checkpoint, or the folder of a training or of a run.")],
    data: Annotated[
        str, typer.Option(help="scenes[:seed=1,size=256x320], or a COCO folder; scenes, or the run's own, by default.")
    ] = "",
    num_images: Annotated[int, typer.Option(help="The first so many; a run's are all judged.")] = 500,
    engine: Annotated[str, typer.Option(help="For a bundle: auto, onnxruntime, openvino[:bf16], torch.")] = "auto",
    wire: Annotated[str, typer.Option(help="For a bundle: as run takes it, for instance uint8+zstd.")] = "fp32",
    filter: Annotated[Optional[bool], typer.Option(help="For a bundle: as run takes it.")] = None,  # noqa: UP045
    filter_threshold: Annotated[Optional[float], typer.Option(help="For a bundle: 0 to 1.")] = None,  # noqa: UP045
    nms_iou: NmsIou = None,
    width: Annotated[float, typer.Option(help="Of an adaptive bundle or a slimmable checkpoint, such as 0.5.")] = 1.0,
    all_settings: Annotated[
        bool, typer.Option("--all-settings", help="For a bundle: every width and wire, local, and JPEG offload.")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write the accuracies into the bundle, where adaptive runs look them up.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Compute threads.")] = 1,
    device: Annotated[str, typer.Option(help="For torch: auto, cpu or cuda.")] = "cpu",
    json: Json = False,
) -> int:
    """Mean average precision against the truth, by COCO's own code.

    Example: `splitrail evaluate bundles/demo --wire uint8`
    """
    from .evaluate import evaluate_verb, print_accuracy

    result = evaluate_verb(
        what,
        data,
        num_images,
        engine,
        wire,
        threads,
        device,
        Console(stderr=True),
        filter,
        filter_threshold,
        nms_iou,
        width,
        all_settings=all_settings,
        record=record,
    )
    if json:
        print(json_module.dumps(result, indent=1))
    else:
        print_accuracy(result, what, Console())
    return 0


@app.command()
def report(
    folders: Annotated[
        Optional[list[Path]], typer.Argument(metavar="DIR...", help="Folders of runs, or folders that hold them.")  # noqa: UP045
    ] = None,
    compare: Annotated[
        Optional[tuple[Path, Path]],  # noqa: UP045
        typer.Option(
            metavar="A B",
            help="What changed from A to B, each a run or its repeats, and whether by more than the spread.",
        ),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="The page; DIR/report.html by default.")] = None,  # noqa: UP045
    figures: Annotated[bool, typer.Option("--figures", help="Write the figures as PNG beside the page, too.")] = False,
    json: Json = False,
) -> int:
    """Make a page, a Markdown file and traces for Perfetto from what runs have left, also from runs that failed.

    Example: `splitrail report out/` or `splitrail report --compare before/ after/ --out compared.html`
    """
    from .report import report_verb

    return report_verb(folders or [], compare, out, figures=figures, as_json=json)


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    num_images: Annotated[int, typer.Option(help="How many pictures.")] = 100,
    size: Annotated[str, typer.Option(help="HxW, pixels.")] = "256x320",
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    split: Annotated[
        str, typer.Option(help="train, or test with grounds and textures that train never shows.")
    ] = "train",
    workers: Annotated[int, typer.Option(help="Processes that make them.")] = 1,
) -> None:
    """Generate pictures with exact boxes, masks and keypoints as a COCO-format folder.

    Example: `splitrail scenes --out data/scenes --num-images 500 --split test`
    """
    from .scenes import scenes_verb

    scenes_verb(out, num_images, size, seed, split, workers, Console(stderr=True))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(help="Folder of another run over the same frames.")],
    score_floor: Annotated[float, typer.Option(help="A's detections below are left out; 0 to 1.")] = 0.5,
    json: Json = False,
) -> None:
    """How far the detections of two runs are apart, for instance with another wire type or engine.

    Example: `splitrail diff out/fp32 out/uint8`
    """
    from ..bench.detection_difference import detection_difference

    result = detection_difference(a, b, score_floor)
    if json:
        print(json_module.dumps(result.to_json(), indent=1))
        return
    print(f"{result.num_identical_frames} of {result.num_frames} frames are identical")
    print(f"{result.num_matched} of {result.num_detections} detections of {a} above {score_floor:g} are matched in {b}")
    if result.mean_box_px is not None:
        print(f"box difference: mean {result.mean_box_px:.3f} px, worst {result.worst_box_px:.3f} px")
        print(f"score difference: mean {result.mean_score:.5f}, worst {result.worst_score:.5f}")


# Verbs of other files add themselves to `app`.
from . import (  # noqa: E402
    verbs_adapt,  # noqa: F401
    verbs_bench,  # noqa: F401
    verbs_detector,  # noqa: F401
    verbs_distill,  # noqa: F401
    verbs_overlap,  # noqa: F401
    verbs_plan,  # noqa: F401
    verbs_wire,  # noqa: F401
)
