"""The accuracy of a run whose source knows the truth: generated scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..bench.accuracy import Truth, accuracies_json
from ..bench.pictures import masks_of
from ..bench.run_accuracy import accuracy_of_run
from ..pipeline.errors import UsageError
from ..stages.bundle import Bundle
from ..stages.scene_source import open_scenes
from ..stages.scenery.classes import CLASSES
from ..stages.source import SourceOptions
from .config import RunConfig


def judge(out: Path, config: RunConfig, bundle: Bundle) -> dict[str, Any] | None:
    """mAP of the run in `out` over its frames with a result, as JSON values; None where the source has no truth.

    `not_measured` says why there is none although the source has it.
    """
    prefix, _, arguments = config.source.uri.partition(":")
    if prefix != "scenes":
        return None
    classes = bundle.classes
    missing = [name for name in CLASSES if name not in classes]
    if missing:
        return {"not_measured": f"the detector has no class {missing[0]!r}"}
    # The world is deterministic: what it showed is made again, without a picture.
    scenes = open_scenes(arguments, SourceOptions(stride=config.source.stride))
    labels = np.array([classes.index(name) for name in CLASSES], np.int32)

    def truth_of(frame: int) -> Truth:
        truth = scenes.truth(frame)
        boxes = truth.boxes, labels[truth.labels], truth.ignored_boxes, labels[truth.ignored_labels]
        if not bundle.postprocess.masks and not bundle.postprocess.num_keypoints:
            return Truth(*boxes)
        areas = truth.masks.sum(axis=(1, 2)).astype(np.float32)
        return Truth(*boxes, masks=masks_of(truth.masks), keypoints=truth.keypoints, areas=areas)

    try:
        return accuracies_json(accuracy_of_run(out, classes, truth_of), classes)
    except UsageError as error:
        return {"not_measured": str(error)}
    finally:
        scenes.close()
