"""Arithmetic on spans of time."""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]


def overlap_share(busy: Sequence[Sequence[Span]]) -> float | None:
    """Share of the time from the first begin to the last end in which at least two of `busy` have an open span.

    `busy` is one list of (begin, end) per rank, all by one clock. None when there is no time to speak of.
    """
    changes: list[tuple[int, int]] = []
    for spans in busy:
        for begin, end in merge(spans):
            changes += [(begin, 1), (end, -1)]
    if not changes:
        return None
    changes.sort()
    total = changes[-1][0] - changes[0][0]
    both = 0
    open_now = 0
    before = changes[0][0]
    for time, change in changes:
        if open_now >= 2:
            both += time - before
        open_now += change
        before = time
    return round(both / total, 4) if total > 0 else None


def merge(spans: Sequence[Span]) -> list[Span]:
    """The union of spans, sorted and disjoint."""
    merged: list[Span] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged
