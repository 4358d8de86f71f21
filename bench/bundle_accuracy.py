"""How right a bundle is, through the very stages that a run has, with any engine and wire type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.errors import BundleError
from ..pipeline.message import layout
from ..pipeline.packet import Kind, Packet, TensorSpec
from ..pipeline.stage import Stage
from ..stages.bundle import Bundle, WireType
from ..stages.codec import Decode, Encode
from ..stages.detections import Detections
from ..stages.engines.registry import open_engine
from ..stages.network import Network, form_of, outputs_of
from ..stages.neural_filter import open_filter
from ..stages.postprocess import open_postprocess
from ..stages.preprocess import Preprocess
from .accuracy import Accuracy, IouType, Truth, accuracies_json, evaluate_all
from .pictures import Pictures

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


def evaluate_bundle(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    wire: WireType = "fp32",
    is_filtered: bool | None = None,
    filter_threshold: float | None = None,
    threads: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> BundleAccuracy:
    """Of the first `num_images` pictures, every tensor from the head on once there and back through `wire`.

    The bundle's neural filter ends empty ones unless `is_filtered` is False; at its own threshold unless another is given.
    Raises BundleError: the pictures have a class that the bundle has not, or no bundle; ConfigError: no filter that is asked
    for; EngineError.
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
    names = bundle.chain(is_filtered=is_filtered)
    scale = _Scale()
    chain: list[Stage] = [Preprocess(bundle.preprocess)]
    truth: list[Truth] = []
    detections: list[Detections] = []
    num_images = min(num_images, len(pictures))
    try:
        for name in names:
            if bundle.filter is not None and name == bundle.filter.graph.name:
                filter_engine = engine if engine != "torch" else "onnxruntime"
                filter_device = device if engine != "torch" else "cpu"
                chain.append(open_filter(folder, bundle, filter_engine, threads, filter_device, filter_threshold))
            else:
                chain += _graph(folder, bundle, name, engine, precision, wire, threads, device, scale)
        chain.append(open_postprocess(bundle.postprocess, 0.0))
        for index in range(num_images):
            picture = pictures.picture(index, 0)
            packet = Packet(index, 0, 0, (picture.image.shape[0], picture.image.shape[1]))
            packet.tensors = {"image": picture.image}
            for stage in chain:
                if packet.kind is Kind.FRAME:
                    stage.process(packet)
            is_empty = packet.kind is Kind.EMPTY
            detections.append(Detections.none() if is_empty else Detections.from_tensors(packet.tensors))
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
            scale.num_empty += is_empty
            if progress is not None:
                progress(index + 1, num_images)
    finally:
        for stage in chain:
            stage.close()
    accuracies = evaluate_all(truth, detections, len(bundle.classes))
    return BundleAccuracy(accuracies, scale.num_empty, scale.num_bytes / max(1, num_images))


def _graph(
    folder: Path,
    bundle: Bundle,
    name: str,
    engine: str,
    precision: str,
    wire: WireType,
    threads: int,
    device: str,
    scale: _Scale,
) -> list[Stage]:
    """A graph, and behind it the way over the wire, as from one rank to the next; within the head there is none."""
    index = next(number for number, stage in enumerate(bundle.stages) if stage.name == name)
    graph = bundle.stages[index]
    crosses = bool(graph.wire_tensors) and index + 1 >= bundle.num_head_stages
    form = form_of(graph, wire) if crosses else None
    loaded = open_engine(engine, precision, folder, bundle, index, outputs_of(graph, form), threads, device)
    chain: list[Stage] = [Network(loaded, graph, form)]
    if crosses and form is not None:
        if form != wire:
            chain.append(Encode(graph.wire_tensors, wire, source=form))
        if index + 1 == bundle.num_head_stages:
            chain.append(scale)
        chain.append(Decode(graph.wire_tensors, wire))
    return chain


class _Scale:
    """Stage: weighs what would travel."""

    name = "scale"

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_empty = 0

    def process(self, packet: Packet) -> None:
        specs = [TensorSpec(name, array.dtype.name, array.shape) for name, array in packet.tensors.items()]
        self.num_bytes += layout(specs)[1]

    def close(self) -> None:
        """Nothing to free."""
