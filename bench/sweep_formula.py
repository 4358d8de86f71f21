"""The delay by formula beside the measured one, as the split-computing papers compute it (Matsubara et al. 2020, section V).

    local    T_L                             offload    T_i + T_E                        split    T_H + T_o + T_T

T_L, T_E, T_H and T_T are times of capture and computing on either side, T_i and T_o are bytes / rate, for the image out, for the
features out. Here, for one frame alone:

    formula = capture + edge + far + 8 bytes / rate + crossings x one-way delay

Computing does not depend on the link, so it is the median over all rates of the sweep at which the rest of the settings are the
same; bytes are those that were sent, both ways; the rate is the link's nominal one. What the formula leaves out is what a real
network adds: headers, acknowledgements, waking up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sweep_cell import Cell
    from .sweep_row import Row

COMPUTED = ("capture_ms", "edge_ms", "far_ms")


def formula_delays_ms(rows: Sequence[Row], links: Mapping[Cell, tuple[float, float]]) -> dict[Cell, float]:
    """Cell -> its delay by formula, ms; for single-stream cells, whose frames wait for no other, with times that are known.

    `links`: cell -> rate in bit/s (infinite where there is none) and one-way delay in ms.
    """
    computed: dict[Cell, list[float]] = defaultdict(list)
    sent: dict[Cell, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        times = [row.values[name] for name in COMPUTED]
        out, back = row.values["bytes_out_per_frame"], row.values["bytes_back_per_frame"]
        if row.trial.cell.scenario != "single-stream" or None in times or out is None or back is None:
            continue
        computed[_without_link(row.trial.cell)].append(sum(time for time in times if time is not None))
        sent[row.trial.cell].append((out, back))
    found = {}
    for cell, sizes in sent.items():
        rate, delay_ms = links[cell]
        out, back = (median(side) for side in zip(*sizes, strict=True))
        crossings = (out > 0) + (back > 0)
        found[cell] = median(computed[_without_link(cell)]) + 8e3 * (out + back) / rate + crossings * delay_ms
    return found


def _without_link(cell: Cell) -> Cell:
    return cell.model_copy(update={"link_rate": "", "link_delay": ""})
