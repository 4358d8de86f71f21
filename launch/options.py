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
