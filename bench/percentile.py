"""Percentiles with their counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MIN_COUNTS = {50: 1, 95: 130, 99: 662}
"""Percentile -> frames it needs to be known within 1 % with 99 % confidence (MLPerf inference rules; p50: any)."""


def percentiles(values: Sequence[float]) -> dict[str, float | int | list[str] | None]:
    """p50, p95 and p99 of `values` with their count, and which of them rest on too few values (`weak`)."""
    result: dict[str, float | int | list[str] | None] = {"num": len(values)}
    for percentile in MIN_COUNTS:
        result[f"p{percentile}_ms"] = round(float(np.percentile(values, percentile)), 4) if len(values) else None
    result["weak"] = [f"p{percentile}" for percentile, count in MIN_COUNTS.items() if len(values) < count]
    return result
