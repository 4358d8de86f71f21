"""Percentiles with their counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_COUNTS: dict[float, int] = {50: 1, 90: 64, 95: 130, 99: 662, 99.9: 6636}
"""Percentile -> values it needs: the fewest n of which at least two lie above the percentile with 99 % confidence,

    1 - p^n - n (1 - p) p^(n - 1) >= 0.99    (binomial; p = percentile / 100)

so that the estimate never rests on a single slowest frame. The median is shown with any count."""
SHOWN: tuple[float, ...] = (50, 95, 99)


def percentiles(values: Sequence[float], shown: Sequence[float] = SHOWN) -> dict[str, float | int | list[str] | None]:
    """`shown` percentiles of `values` (of MIN_COUNTS) with their count, and which rest on too few values (`weak`)."""
    result: dict[str, float | int | list[str] | None] = {"num": len(values)}
    for percentile in shown:
        result[f"p{percentile:g}_ms"] = round(float(np.percentile(values, percentile)), 4) if len(values) else None
    result["weak"] = [f"p{percentile:g}" for percentile in shown if len(values) < MIN_COUNTS[percentile]]
    return result
