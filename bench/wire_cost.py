"""What each wire type costs and saves on real features: bytes, service time of encoding and decoding, error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.clock import now_ns
from ..pipeline.errors import ConfigError
from ..pipeline.message import layout
from ..pipeline.packet import Array, Kind, TensorSpec
from ..stages.bundle import Bundle, WireType
from ..stages.codec import decode, encode
from ..stages.engines.registry import open_engine
from ..stages.network import Network, outputs_of
from ..stages.preprocess import Preprocess
from ..stages.source import Source

_NUM_REPEATS = 5


@dataclass(frozen=True, slots=True)
class WireCost:
    """Of one wire type, over all frames. Times are those of NumPy and zstandard on one core, also where a graph makes uint8
    itself: medians over the frames of the least of five."""

    wire: WireType
    num_frames: int
    bytes_per_frame: float
    """Mean payload, with parameters and gaps."""
    share_of_fp32: float
    encode_ms: float
    decode_ms: float
    relative_error: float
    """|decoded - features| / |features| (L2), mean."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def wire_costs(
    folder: Path, source: Source, num_frames: int, wires: Sequence[WireType], *, threads: int = 1
) -> list[WireCost]:
    """Run the bundle's head in ONNX Runtime on the first `num_frames` frames of `source` and take its tensors through `wires`.

    Raises ConfigError: the bundle has no cut, or the source no frame.
    """
    rows: dict[WireType, list[tuple[float, float, float, float]]] = {wire: [] for wire in wires}
    whole = []
    for features in _features(folder, source, num_frames, threads):
        whole.append(sum(array.nbytes for array in features))
        for wire in wires:
            rows[wire].append(_cost(features, wire))
    if not whole:
        raise ConfigError("the source has no frame to measure on; give another --source")
    costs = []
    for wire, values in rows.items():
        num_bytes, encode_ms, decode_ms, error = np.array(values).T
        costs.append(
            WireCost(
                wire=wire,
                num_frames=len(whole),
                bytes_per_frame=round(float(num_bytes.mean()), 1),
                share_of_fp32=round(float(num_bytes.sum() / sum(whole)), 4),
                encode_ms=round(float(np.median(encode_ms)), 4),
                decode_ms=round(float(np.median(decode_ms)), 4),
                relative_error=float(f"{error.mean():.3g}"),
            )
        )
    return costs


def _features(folder: Path, source: Source, num_frames: int, threads: int) -> Iterator[list[Array]]:
    """Per frame, the float32 tensors that leave the head."""
    bundle = Bundle.load(folder)
    head = bundle.stages[: bundle.num_head_stages]
    if not head[-1].wire_tensors:
        raise ConfigError(f"the bundle {folder} is one graph, nothing travels inside it; export it with a cut")
    networks: list[Network] = []
    try:
        for index, stage in enumerate(head):
            engine = open_engine("onnxruntime", "fp32", folder, bundle, index, outputs_of(stage, None), threads)
            networks.append(Network(engine, stage, None))
        preprocess = Preprocess(bundle.preprocess)
        num = 0
        while num < num_frames and (packet := source.receive()) is not None:
            if packet.kind is not Kind.FRAME:
                continue
            num += 1
            preprocess.process(packet)
            for network in networks:
                network.process(packet)
            yield [packet.tensors[name] for name in head[-1].wire_tensors]
    finally:
        for network in networks:
            network.close()


def _cost(features: Sequence[Array], wire: WireType) -> tuple[float, float, float, float]:
    """Payload bytes, encoding and decoding ms, and relative error of one frame."""
    encode_ms, decode_ms = [], []
    for _ in range(_NUM_REPEATS):
        begin = now_ns()
        encoded = [encode(array, wire) for array in features]
        middle = now_ns()
        decoded = [decode(parts, wire) for parts in encoded]
        encode_ms.append((middle - begin) / 1e6)
        decode_ms.append((now_ns() - middle) / 1e6)
    specs = [TensorSpec(name, array.dtype.name, array.shape) for parts in encoded for name, array in parts.items()]
    differences = [np.subtract(a, b, dtype=np.float64) for a, b in zip(decoded, features, strict=True)]
    distance, length = (np.linalg.norm([np.linalg.norm(each) for each in parts]) for parts in (differences, features))
    return layout(specs)[1], min(encode_ms), min(decode_ms), float(distance / max(length, 1e-300))
