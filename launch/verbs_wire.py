"""The verb `bench wire`: what each wire type costs and saves on a detector's own features."""

from __future__ import annotations

import json as json_module
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .config import DEFAULT_BUNDLE
from .options import Json
from .verbs_bench import bench


@bench.command("wire")
def bench_wire(
    source: Annotated[str, typer.Option(help="As run takes it; its frames go through the bundle's head.")],
    bundle: Annotated[str, typer.Option(help="Folder of the detector, or an embedded one by name.")] = DEFAULT_BUNDLE,
    wires: Annotated[str, typer.Option(help="Wire types joined by commas; all by default.")] = "",
    num_frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 8,
    stride: Annotated[int, typer.Option(min=1, help="Take every n-th frame.")] = 20,
    json: Json = False,
) -> int:
    """Bytes per frame, encoding and decoding time, and error of every wire type, on real features.

    Example: `splitrail bench wire --bundle demo --source cam.mp4`
    """
    from ..bench.wire_cost import wire_costs
    from ..stages.scene_source import open_scenes
    from ..stages.source import SourceOptions, open_source, register_source
    from ..stages.wire import WIRES, WireForm
    from .config import bundle_folder

    register_source("scenes", open_scenes)
    chosen = [WireForm.of(wire).name for wire in wires.split(",")] if wires else list(WIRES)
    opened = open_source(source, SourceOptions(stride=stride))
    try:
        costs = wire_costs(bundle_folder(bundle), opened, num_frames, chosen)
    finally:
        opened.close()
    if json:
        print(json_module.dumps([cost.to_json() for cost in costs], indent=1))
        return 0
    table = Table(title=f"{bundle} on {source}: {costs[0].num_frames} frames")
    for column in ("wire", "bytes/frame", "of fp32", "encode ms", "decode ms", "relative error"):
        table.add_column(column, justify="left" if column == "wire" else "right", no_wrap=column == "wire")
    for cost in costs:
        table.add_row(
            cost.wire,
            f"{cost.bytes_per_frame:,.0f}",
            f"{100 * cost.share_of_fp32:.1f} %",
            f"{cost.encode_ms:.2f}",
            f"{cost.decode_ms:.2f}",
            f"{cost.relative_error:.2g}",
        )
    Console().print(table)
    return 0
