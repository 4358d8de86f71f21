"""How right a bundle is, through the very stages that a run has, with any engine and in any setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.errors import BundleError
from ..stages.bundle import Bundle, MeasuredAccuracy, WireType
from ..stages.detections import Detections
from ..stages.nms_choice import NmsIou
from ..stages.setting import Setting
from .accuracy import Accuracy, IouType, Truth, accuracies_json, evaluate_all
from .pictures import Pictures
from .setting_tree import Computing, SettingTree

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


@dataclass(frozen=True, slots=True)
class BundleAccuracy:
    """What became of the pictures."""

    accuracies: Mapping[IouType, Accuracy]
    """Of boxes, and of masks and keypoints where both the detector and the pictures have them."""
    num_empty: int
    """Pictures that the neural filter ended."""
    bytes_per_frame: float
    """Mean payload between head and tail, bytes, 0 for an empty frame; 0 for a bundle of one graph."""

    @property
    def boxes(self) -> Accuracy:
        """That of the boxes."""
        return self.accuracies["bbox"]

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON values."""
        return {
            **accuracies_json(self.accuracies, classes),
            "num_empty": self.num_empty,
            "bytes_per_frame": round(self.bytes_per_frame, 1),
        }

    def measured(self, setting: Setting, data: str, filter_threshold: float | None = None) -> MeasuredAccuracy:
        """As a row of the bundle's table; `data` tells in one line what was judged."""
        masks, keypoints = self.accuracies.get("segm"), self.accuracies.get("keypoints")
        return MeasuredAccuracy(
            width=setting.width,
            way=setting.way,
            jpeg_quality=setting.jpeg_quality,
            wire=setting.wire,
            filter_threshold=filter_threshold,
            data=data,
            num_images=self.boxes.num_images,
            bytes_per_frame=round(self.bytes_per_frame, 1),
            box_map=self.boxes.map,
            box_map_50=self.boxes.map_50,
            mask_map=masks.map if masks else None,
            keypoint_map=keypoints.map if keypoints else None,
        )


def evaluate_bundle(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    wire: WireType = "fp32",
    width: float = 1.0,
    is_filtered: bool | None = None,
    filter_threshold: float | None = None,
    nms_iou: NmsIou | None = None,
    threads: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> BundleAccuracy:
    """`evaluate_settings` with one: split at `width`, the tensors between head and tail once there and back through `wire`."""
    (found,) = evaluate_settings(
        folder,
        pictures,
        num_images,
        [Setting("split", width, wire)],
        Computing(engine, precision, threads, device),
        is_filtered=is_filtered,
        filter_threshold=filter_threshold,
        nms_iou=nms_iou,
        progress=progress,
    )
    return found


def evaluate_settings(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    settings: Sequence[Setting],
    computing: Computing | None = None,
    *,
    is_filtered: bool | None = None,
    filter_threshold: float | None = None,
    nms_iou: NmsIou | None = None,
    progress: Progress | None = None,
) -> list[BundleAccuracy]:
    """For each of `settings`, of the first `num_images` pictures; what settings have in common is computed once a picture.

    The bundle's neural filter ends empty ones unless `is_filtered` is False; at its own threshold unless another is given.
    `nms_iou` is the bundle's own unless given. Raises BundleError: the pictures have a class that the bundle has not, or no
    bundle; ConfigError: no filter or width that is asked for; EngineError.
    """
    bundle = Bundle.load(folder)
    missing = [name for name in pictures.classes if name not in bundle.classes and name != "N/A"]
    if missing:
        raise BundleError(
            f"the pictures have {len(pictures.classes)} classes and the bundle lacks {missing[0]!r} among its "
            f"{len(bundle.classes)}; evaluate on pictures of the bundle's classes"
        )
    labels = np.array(
        [bundle.classes.index(name) if name in bundle.classes else 0 for name in pictures.classes], np.int32
    )
    if is_filtered is None:
        is_filtered = bundle.filter is not None or filter_threshold is not None
    num_images = min(num_images, len(pictures))
    truth: list[Truth] = []
    detections: list[list[Detections]] = [[] for _ in settings]
    num_bytes, num_empty = [0] * len(settings), [0] * len(settings)
    tree = SettingTree(
        folder,
        bundle,
        settings,
        computing or Computing(),
        is_filtered=is_filtered,
        filter_threshold=filter_threshold,
        nms_iou=nms_iou,
    )
    try:
        for index in range(num_images):
            picture = pictures.picture(index, 0)
            for number, outcome in enumerate(tree.outcomes(picture.image)):
                detections[number].append(outcome.detections)
                num_bytes[number] += outcome.num_bytes
                num_empty[number] += outcome.is_empty
            truth.append(
                Truth(
                    picture.boxes,
                    labels[picture.labels],
                    picture.ignored_boxes,
                    labels[picture.ignored_labels],
                    picture.masks,
                    picture.ignored_masks,
                    picture.keypoints,
                    picture.areas,
                )
            )
            if progress is not None:
                progress(index + 1, num_images)
    finally:
        tree.close()
    return [
        BundleAccuracy(
            evaluate_all(truth, detections[number], len(bundle.classes)),
            num_empty[number],
            num_bytes[number] / max(1, num_images),
        )
        for number in range(len(settings))
    ]
