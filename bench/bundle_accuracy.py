"""How right a bundle is, through the very stages that a run has, with any engine and wire type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..pipeline.errors import BundleError
from ..pipeline.packet import Packet
from ..pipeline.stage import Stage
from ..stages.bundle import Bundle, WireType
from ..stages.codec import Decode
from ..stages.detections import Detections
from ..stages.engines.registry import open_engine
from ..stages.network import Network, outputs_of
from ..stages.postprocess import DetrPostprocess
from ..stages.preprocess import Preprocess
from .accuracy import Accuracy, Truth, evaluate_boxes
from .pictures import Pictures

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


def evaluate_bundle(
    folder: Path,
    pictures: Pictures,
    num_images: int,
    *,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    wire: WireType = "fp32",
    threads: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Accuracy:
    """Of the first `num_images` pictures, every tensor between two graphs once there and back through `wire`.

    Raises BundleError: the pictures have a class that the bundle has not, or no bundle; EngineError.
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
    chain = _chain(folder, bundle, engine, precision, wire, threads, device)
    num_images = min(num_images, len(pictures))
    truth: list[Truth] = []
    detections: list[Detections] = []
    try:
        for index in range(num_images):
            picture = pictures.picture(index, 0)
            packet = Packet(index, 0, 0, (picture.image.shape[0], picture.image.shape[1]))
            packet.tensors = {"image": picture.image}
            for stage in chain:
                stage.process(packet)
            detections.append(Detections.from_tensors(packet.tensors))
            truth.append(
                Truth(picture.boxes, labels[picture.labels], picture.ignored_boxes, labels[picture.ignored_labels])
            )
            if progress is not None:
                progress(index + 1, num_images)
    finally:
        for stage in chain:
            stage.close()
    return evaluate_boxes(truth, detections, len(bundle.classes))


def _chain(
    folder: Path, bundle: Bundle, engine: str, precision: str, wire: WireType, threads: int, device: str
) -> list[Stage]:
    chain: list[Stage] = [Preprocess(bundle.preprocess)]
    for index, graph in enumerate(bundle.stages):
        loaded = open_engine(engine, precision, folder, bundle, index, outputs_of(graph, wire), threads, device)
        chain.append(Network(loaded, graph, wire))
        if graph.wire_tensors:
            chain.append(Decode(graph.wire_tensors, wire))
    chain.append(DetrPostprocess(0.0))
    return chain
