"""The verbs `bench overlap` and `bench soak`."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from ..pipeline.errors import ConfigError
from .config import DEFAULT_BUNDLE
from .options import Delay, Json, NetNs, Rate
from .verbs_bench import bench

_LINK_RATE = "1gbit"


@bench.command("overlap")
def bench_overlap(
    preset: Annotated[
        str,
        typer.Option(help="gigabit, long, slow, loop, transport, cost, endurance, several joined by commas, or all."),
    ] = "",
    bundle: Annotated[str, typer.Option(help="Your own detector in the engines' place; with --source.")] = "",
    source: Annotated[str, typer.Option(help="Its pictures, as for `run`; up to 64 are decoded beforehand.")] = "",
    engine: Annotated[str, typer.Option(help="For the bundle: auto, onnxruntime, openvino[:bf16], torch.")] = "auto",
    device: Annotated[str, typer.Option(help="For the torch engine: cpu or cuda.")] = "cpu",
    wire: Annotated[str, typer.Option(help="For the bundle: fp32, fp16, uint8.")] = "fp16",
    threads: Annotated[
        int, typer.Option(min=0, help="Compute threads of a rank for the bundle; 0: half the cores.")
    ] = 0,
    netns: NetNs = False,
    link_rate: Rate = _LINK_RATE,
    link_delay: Delay = "",
    frame_bytes: Annotated[Optional[int], typer.Option(help="Bytes of a frame; 6963200 without preset.")] = None,  # noqa: UP045
    stage_ms: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Work of each stage, ms; 0: as long as the wire takes, or 20 ms without one."),
    ] = None,
    num_frames: Annotated[
        Optional[int], typer.Option(help="Frames of each measurement; 100 without preset.")  # noqa: UP045
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measurements of each row; 0: 5 for a preset, else 1.")] = 0,
    engines: Annotated[str, typer.Option(help="Of sleep, native, mix, none; else the preset's.")] = "",
    overlaps: Annotated[
        str,
        typer.Option(
            help="Of full, naive, blocking, pickle, zeromq, single, measured (full, with journals and meters)."
        ),
    ] = "",
    json: Json = False,
) -> int:
    """How much of the ideal throughput the channel reaches, beside what one writes without it, in one run.

    Example: `splitrail bench overlap --preset all` or `splitrail bench overlap --bundle demo --source scenes --netns`
    """
    from .bench_overlap import OverlapBench, bundle_facts
    from .bench_presets import Preset, bundle_preset, presets_of
    from .bench_tables import print_rows

    has_link_options = netns or bool(link_delay) or link_rate != _LINK_RATE
    if preset and (has_link_options or bundle):
        raise ConfigError(
            "--preset brings its own link and engines; leave out --netns, --link-rate, --link-delay and --bundle"
        )
    facts: dict[str, Any] = {}
    max_wire_bytes = 0
    rate, delay = (link_rate, link_delay or None) if netns else (None, None)
    if has_link_options and not netns:
        raise ConfigError("--link-rate and --link-delay are of the emulated link; add --netns")
    if preset:
        chosen = presets_of(preset)
    elif bundle:
        facts, max_wire_bytes = bundle_facts(bundle, source, engine, wire, threads, device)
        chosen = (bundle_preset(rate, delay),)
    else:
        chosen = (Preset("custom", "two stages of the same work", 6_963_200, 100, rate, delay),)
    given = {
        "frame_bytes": frame_bytes,
        "stage_ms": stage_ms,
        "num_frames": num_frames,
        "engines": tuple(engines.split(",")) if engines else None,
        "overlaps": tuple(overlaps.split(",")) if overlaps else None,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    # All are checked before the first one starts.
    benches = [
        OverlapBench(dataclasses.replace(one, **changes), repeats or (5 if preset else 1), facts, max_wire_bytes)
        for one in chosen
    ]
    console = Console()
    rows = []
    for one in benches:
        with Console(stderr=True).status("") as status:
            found = one.run(status.update)
        rows += found
        if not json:
            print_rows(one.preset, found, console)
    if json:
        print(json_module.dumps(rows, indent=1))
    return 0


@bench.command("soak")
def bench_soak(
    source: Annotated[str, typer.Option(help="Video or pictures, played over and over.")],
    bundle: Annotated[str, typer.Option(help="Folder of the detector, or an embedded one by name.")] = DEFAULT_BUNDLE,
    num_frames: Annotated[int, typer.Option(help="Frames of each of the two runs.")] = 10_000,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime, openvino[:bf16], torch.")] = "auto",
    netns: NetNs = False,
    link_rate: Rate = "",
    link_delay: Delay = "",
    json: Json = False,
) -> int:
    """A long run on two ranks, then a camera that is twice too fast: nothing lost, memory and age of results flat.

    Exit code 1 where one of these does not hold.

    Example: `splitrail bench soak --source cam.mp4 --num-frames 10000`
    """
    from .bench_soak import Soak, print_soak

    link = [*(["--netns"] if netns else [])]
    link += ["--link-rate", link_rate] if link_rate else []
    link += ["--link-delay", link_delay] if link_delay else []
    with Console(stderr=True).status(f"two runs of {num_frames} frames"):
        result = Soak(source, num_frames, ("--bundle", bundle, "--engine", engine, *link)).run()
    if json:
        print(json_module.dumps(result, indent=1))
    else:
        print_soak(result, Console())
    lossless, camera = result["lossless"], result["camera"]
    holds = (
        lossless["in_order_once_each"] and lossless["no_growth"] and camera["counts_add_up"] and camera["age_is_flat"]
    )
    return 0 if holds else 1
