"""What an adaptive run was to keep up, and whether it said that it could not, from the journals alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..stages.target_watch import SOURCE_SLOW, TARGET_MISSED


def adapt_summary(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Of the lines of all ranks: target, policy, and where it was told: from which frame on (after two seconds) the target was
    missed or the source too slow for it, and the sentence. None for a run that does not adapt."""
    facts: dict[str, Any] | None = None
    told: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["e"] == "begin" and line.get("adapt"):
            facts = facts or dict(line["adapt"])
        elif line["e"] in (TARGET_MISSED, SOURCE_SLOW):
            told.setdefault(line["e"], {"frame": line["f"], "why": line["why"]})
    return None if facts is None else {**facts, **{name: told.get(name) for name in (TARGET_MISSED, SOURCE_SLOW)}}


def adapt_sentences(adapt: Mapping[str, Any] | None) -> list[str]:
    """What a summary's `adapt` has to tell, for people; empty where there is nothing."""
    if adapt is None or not adapt.get("target"):
        return []
    missed, slow = adapt[TARGET_MISSED], adapt[SOURCE_SLOW]
    sentences = []
    if missed is not None:
        sentences.append(f"target missed, for two seconds by frame {missed['frame']}: {missed['why']}")
    if slow is not None:
        sentences.append(f"source too slow for the target: {slow['why']}")
    return sentences or [f"{adapt['target']}: never missed for two seconds"]
