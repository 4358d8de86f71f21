"""The verbs `bench adapt` and `bench switch`."""

from __future__ import annotations

import json as json_module
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .options import AdaptPolicy, AdaptWays, Delay, Json, RateSteps
from .verbs_bench import bench

_STEPS = "100mbit:0,8mbit:10,2mbit:20,20mbit:30,100mbit:40"


@bench.command("adapt")
def bench_adapt(
    bundle: Annotated[
        str, typer.Option(help="Folder of an adaptive detector, or an embedded one by name.")
    ] = "adaptive",
    target: Annotated[
        str, typer.Option(help="target-fps=15, target-delay-ms=120 or both with a comma.")
    ] = "target-fps=15",
    link_rate_steps: RateSteps = _STEPS,
    link_delay: Delay = "",
    rate: Annotated[float, typer.Option(min=1, help="Of the camera, FPS.")] = 15.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the world that the camera films.")] = 0,
    num_worlds: Annotated[int, typer.Option(min=1, help="Worlds of the seeds --seed, --seed + 1, ...")] = 1,
    camera_size: Annotated[str, typer.Option(help="Of the camera's pictures, height x width.")] = "480x640",
    speed: Annotated[
        float, typer.Option(min=0.1, help="How many times as fast as in a film at --rate everything moves.")
    ] = 1.0,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime, openvino[:bf16], torch.")] = "auto",
    adapt_policy: AdaptPolicy = "model",
    adapt_ways: AdaptWays = "split",
    jpeg_quality: Annotated[int, typer.Option(min=1, max=100, help="Of the run that sends pictures.")] = 75,
    threads: Annotated[int, typer.Option(min=0, help="Compute threads of a rank; 0: its share of the cores.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the runs, adapt.json and adapt.png.")] = Path("out/adapt"),
    json: Json = False,
) -> int:
    """An adaptive run beside the widest, the narrowest and JPEG offload, over a link whose rate changes; needs root.

    Exit code 1: a frame was lost, a fixed run was more accurate over the whole trace, or 2 s and the drain after a step the
    adaptive run had not the target's rate back.

    Example: `splitrail bench adapt --bundle adaptive --target target-fps=15 --out out/adapt`
    """
    from ..pipeline.errors import ConfigError
    from ..stages.target import Target
    from .adapt_config import ways_of
    from .bench_adapt import AdaptBench, print_adapt
    from .rate_trace import RateTrace

    match = re.fullmatch(r"(\d+)x(\d+)", camera_size)
    if match is None:
        raise ConfigError(f"--camera-size {camera_size!r} is not HxW, such as 480x640")
    asked = AdaptBench(
        bundle,
        RateTrace.parse(link_rate_steps),
        Target.parse(target),
        rate,
        seed,
        num_worlds,
        (int(match[1]), int(match[2])),
        speed,
        engine,
        adapt_policy or "model",
        ways_of(adapt_ways),
        jpeg_quality,
        link_delay or None,
        threads,
    )
    with Console(stderr=True).status("") as status:
        result = asked.run(out, status.update)
    if json:
        print(json_module.dumps(result, indent=1))
    else:
        print_adapt(result, out, Console())
    kept = all(result["kept_rate"]) or asked.target.fps is None
    return 0 if result["adaptive_is_best"] and kept and not result["lost"] else 1


@bench.command("switch")
def bench_switch(
    bundle: Annotated[
        str, typer.Option(help="Folder of an adaptive detector, or an embedded one by name.")
    ] = "adaptive",
    repeats: Annotated[int, typer.Option(help="Rounds; each has three frames of every setting.")] = 200,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime, openvino[:bf16], torch.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Compute threads.")] = 1,
    json: Json = False,
) -> int:
    """What it costs to do each frame with another setting than the one before, and to decide which.

    Example: `splitrail bench switch --bundle adaptive`
    """
    from .bench_switch import SwitchBench, print_switch

    with Console(stderr=True).status("measuring"):
        result = SwitchBench(bundle, repeats, engine, threads).run()
    if json:
        print(json_module.dumps(result, indent=1))
    else:
        print_switch(result, Console())
    return 0
