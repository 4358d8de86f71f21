"""The verb `demo`: the main job, on what comes with the package."""

from __future__ import annotations

from pathlib import Path

from .config import RunConfig
from .run import start

SOURCE = "scenes:split=test,seed=7,frames=250"
"""A generated clip with exact truth, from the split that the embedded detector was never trained on."""


def run_demo(out: Path, *, as_json: bool = False) -> int:
    """Two ranks, placement backbone, embedded detector and clip; returns the exit code."""
    config = RunConfig.check(
        {
            "source": {"uri": SOURCE},
            "out": str(out),
            "placement": "backbone",
            # mAP wants the doubtful detections too; the video shows those above the bundle's own threshold.
            "score_threshold": 0.01,
            "command": "splitrail demo",
        },
        "the demo",
    )
    return start(config, as_json=as_json)
