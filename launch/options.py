"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# typer reads the annotations at run time, and its options are spelled Optional for Python 3.10.
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Hostfile = Annotated[Optional[Path], typer.Option(help="Hosts in rank order; see hostfiles/.")]  # noqa: UP045
NetNs = Annotated[
    bool, typer.Option("--netns", help="Two hosts on this machine: namespaces joined by a link. Needs root.")
]
Rate = Annotated[str, typer.Option(help="Rate of that link, for instance 100mbit.")]
Delay = Annotated[str, typer.Option(help="One-way delay of that link, for instance 10ms.")]
NmsIou = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        metavar="IOU|off",
        help="Of a DETR's boxes of one class that overlap more, the worse goes, for instance 0.7; the bundle's by default.",
    ),
]
RateSteps = Annotated[
    str,
    typer.Option(
        metavar="RATE:SECOND,...",
        help="That rate changing while the run goes on, from the first frame: 100mbit:0,8mbit:10,2mbit:20.",
    ),
]
Adapt = Annotated[
    str,
    typer.Option(
        metavar="TARGET",
        help="Choose width and wire type for every frame: target-fps=15, target-delay-ms=120, or both joined by a comma "
        "(docs/adapt.md).",
    ),
]
AdaptPolicy = Annotated[str, typer.Option(help="model (the default), step, or fixed:WIDTH,WIRE.")]
AdaptWays = Annotated[str, typer.Option(help="Of split, local, offload, joined by commas; split by default.")]
AdaptWires = Annotated[
    str,
    typer.Option(help="Wire types to choose from, joined by commas; by default those the bundle was measured with."),
]
GraphMemory = Annotated[float, typer.Option(help="Graphs of an adaptive run that a rank keeps loaded, MB; 0: all.")]
