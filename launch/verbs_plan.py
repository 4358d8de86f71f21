"""The verbs `plan` and `bench profile`: predict."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from ..pipeline.errors import ConfigError
from .config import DEFAULT_BUNDLE
from .options import Json, NetNs
from .verbs import app
from .verbs_bench import bench


@bench.command("profile")
def bench_profile(
    out: Annotated[Path, typer.Option(help="The profile, a TOML file.")],
    bundle: Annotated[str, typer.Option(help="Folder of the detector, or an embedded one by name.")] = DEFAULT_BUNDLE,
    host: Annotated[str, typer.Option(help="What to call this host; its own name by default.")] = "",
    engine: Annotated[str, typer.Option(help="auto, onnxruntime, openvino[:bf16], torch.")] = "auto",
    device: Annotated[str, typer.Option(help="For the torch engine: cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="Compute threads of a rank; 0: all cores.")] = 0,
    source: Annotated[str, typer.Option(help="Video, images or scenes: what is captured and made a JPEG.")] = "scenes",
    jpeg_quality: Annotated[int, typer.Option(help="1 to 100.")] = 90,
    seconds: Annotated[float, typer.Option(help="Of each measurement, at least nine frames.")] = 5.0,
    coload: Annotated[
        bool, typer.Option(help="Also time both sides of each cut at once, for ranks that share a host.")
    ] = True,
    json: Json = False,
) -> None:
    """Service times of every stage on this host, for `splitrail plan`. Run it on each host.

    Example: `splitrail bench profile --bundle detr-r50 --source cam.mp4 --threads 1 --out edge.toml`
    """
    from .bench_profile import print_profile, profile_verb

    console = Console(stderr=True)
    profile = profile_verb(bundle, out, host, engine, device, threads, source, jpeg_quality, seconds, coload, console)
    if json:
        print(profile.model_dump_json(indent=1, by_alias=True))
    else:
        print_profile(profile, out, Console())


@app.command()
def plan(
    profile: Annotated[
        list[str],
        typer.Option(help="The edge device's, then the workstation's: a TOML file or a published one by name."),
    ],
    bundle: Annotated[Optional[str], typer.Option(help="Folder of the detector, or an embedded one by name.")] = None,  # noqa: UP045
    detector: Annotated[Optional[str], typer.Option(help="One that only the profiles know, by name.")] = None,  # noqa: UP045
    link_rate: Annotated[str, typer.Option(help="Rate of the link between the hosts, for instance 100mbit.")] = "",
    link_rtt: Annotated[str, typer.Option(help="Round trip of that link, for instance 20ms.")] = "0ms",
    half_duplex: Annotated[bool, typer.Option("--half-duplex", help="Both directions share the rate (radio).")] = False,
    ideal_link: Annotated[
        bool, typer.Option("--ideal-link", help="All of the rate carries payload, as the papers reckon.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Run the rows on this machine and compare.")] = False,
    netns: NetNs = False,
    out: Annotated[Path, typer.Option(help="Folder for those runs.")] = Path("out/plan"),
    only: Annotated[str, typer.Option(help="Verify rows that contain one of these words: backbone,offload.")] = "",
    frames: Annotated[int, typer.Option(help="Frames of each of those runs.")] = 40,
    drift: Annotated[bool, typer.Option(help="Time the graphs again before each row and scale by that.")] = True,
    delay: Annotated[bool, typer.Option(help="A second run of each row, below capacity, for its delay.")] = True,
    json: Json = False,
) -> None:
    """FPS, delay, busy shares and the bottleneck of every placement and cut, best first, from the hosts' profiles.

    Example: `splitrail plan --bundle detr-r50 --profile edge.toml --profile workstation.toml --link-rate 100mbit`
    """
    from .plan import Plan, parse_link, print_profiles
    from .plan_verify import Verification, choose_rows, print_verified

    if not verify and netns:
        raise ConfigError("--netns is of the runs that check the plan; add --verify")
    if netns and half_duplex:
        raise ConfigError("the emulated link of --netns is full duplex; leave --half-duplex out")
    if verify and not netns and link_rate:
        raise ConfigError("runs on this machine have no link of that rate; add --netns, or leave --link-rate out")
    if verify and bundle is None:
        raise ConfigError("only a bundle can be run; give --bundle with --verify")
    link = parse_link(link_rate, link_rtt, half_duplex=half_duplex, ideal=ideal_link, is_needed=not verify or netns)
    question = Plan.open(profile, link, bundle, detector)
    rows, left_out = question.rows()
    console = Console(stderr=json)
    if not json:
        print_profiles(question, console)
        question.print(rows, left_out, console)
    result: dict[str, object] = {
        "question": question.to_json(),
        "rows": [row.to_json() for row in rows],
        "left_out": left_out,
    }
    if verify:
        options = (
            ("--netns", "--link-rate", link_rate, "--link-delay", f"{link.round_trip_ms / 2:g}ms") if netns else ()
        )
        verification = Verification(question, str(bundle), out, frames, options, drift, delay)
        with Console(stderr=True).status("") as status:
            verified = verification.run(choose_rows(rows, only), lambda what: status.update(f"running {what}"))
        result["verified"] = [row.to_json() for row in verified]
        if not json:
            print_verified(verified, console)
            console.print(f"runs in {out}; draw them with: splitrail report {out}", highlight=False)
    if json:
        print(json_module.dumps(result, indent=1))
