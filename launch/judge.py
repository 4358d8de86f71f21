"""The accuracy of a run whose source knows the truth: generated scenes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..bench.accuracy import AccuracyError, Truth, accuracies_json
from ..bench.pictures import masks_of
from ..bench.run_accuracy import accuracy_of_run
from ..bench.streaming_accuracy import streaming_accuracy, ticks_of
from ..bench.summary import load_journals
from ..pipeline.errors import UsageError
from ..stages.bundle import Bundle
from ..stages.scene_source import SceneSource, open_scenes
from ..stages.scenery.classes import CLASSES
from ..stages.source import SourceOptions
from .config import RunConfig


def judge(out: Path, config: RunConfig, bundle: Bundle, filmed: SceneSource | None = None) -> dict[str, Any] | None:
    """mAP of the run in `out` over its frames with a result, as JSON values; None where the source has no truth. Under
    `streaming`, of a run at a camera's rate, that of what it showed at every moment.

    `not_measured` says why there is none although the source has it.
    `filmed` is the run's source where it is still at hand, which saves making its world again.
    """
    if config.source.uri.partition(":")[0] != "scenes":
        return None
    try:
        with scene_truth(config, bundle, filmed) as truth_of:
            result = accuracies_json(accuracy_of_run(out, bundle.classes, truth_of), bundle.classes)
            if config.source.rate_fps is not None:
                ticks = ticks_of(load_journals(out))
                shown = streaming_accuracy(out, ticks, bundle.classes, truth_of).to_json(bundle.classes)
                result["streaming"] = {"num_ticks": len(ticks), "mAP": shown["mAP"], "mAP@50": shown["mAP@50"]}
            return result
    except UsageError as error:
        return {"not_measured": str(error)}


@contextlib.contextmanager
def scene_truth(
    config: RunConfig, bundle: Bundle, filmed: SceneSource | None = None
) -> Iterator[Callable[[int], Truth]]:
    """The truth by captured frame of a run on generated scenes, labels indexing the bundle's classes.

    Raises AccuracyError: the detector does not know what scenes show.
    """
    classes = bundle.classes
    missing = [name for name in CLASSES if name not in classes]
    if missing:
        raise AccuracyError(f"the detector has no class {missing[0]!r}")
    # The world is deterministic: what it showed can be made again, without a picture.
    arguments = config.source.uri.partition(":")[2]
    scenes = filmed or open_scenes(arguments, SourceOptions(stride=config.source.stride))
    labels = np.array([classes.index(name) for name in CLASSES], np.int32)

    def truth_of(frame: int) -> Truth:
        truth = scenes.truth(frame)
        boxes = truth.boxes, labels[truth.labels], truth.ignored_boxes, labels[truth.ignored_labels]
        if not bundle.postprocess.masks and not bundle.postprocess.num_keypoints:
            return Truth(*boxes)
        areas = truth.masks.sum(axis=(1, 2)).astype(np.float32)
        return Truth(*boxes, masks=masks_of(truth.masks), keypoints=truth.keypoints, areas=areas)

    try:
        yield truth_of
    finally:
        scenes.close()
