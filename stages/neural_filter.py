"""The neural filter: a frame without any object goes no further."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..pipeline.errors import FrameError
from ..pipeline.packet import Packet
from .bundle import Bundle, NeuralFilter
from .engine import Engine
from .engines.registry import open_engine
from .tensors import tensor_of

OBJECTNESS = "objectness"
"""The output of a filter's graph: float32 [1], the probability that the frame has an object."""


class FilterStage:
    """Stage: turns a packet EMPTY when the filter's graph finds no object in it; other packets stay as they are.

    Matsubara and Levorato 2020 ("Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged
    Networks"), section 5. No later stage sees an empty packet: of it only a header travels, and its result is empty.
    """

    def __init__(self, engine: Engine, neural_filter: NeuralFilter, threshold: float | None = None) -> None:
        """`engine` runs the filter's graph and is closed with the stage; without `threshold` the filter's own is taken."""
        self.name = neural_filter.graph.name
        self._engine = engine
        self._inputs = neural_filter.graph.inputs
        self._threshold = neural_filter.threshold if threshold is None else threshold

    def process(self, packet: Packet) -> None:
        """Raises FrameError: the probability is not finite; MessageError: the packet lacks the tensor."""
        inputs = {}
        for tensor in self._inputs:
            if tensor.name == "valid_size":
                inputs[tensor.name] = np.array(packet.valid_size, np.int64)
            else:
                inputs[tensor.name] = np.ascontiguousarray(tensor_of(packet, tensor.name, tensor.dtype, self.name))
        objectness = float(self._engine.run(inputs, (OBJECTNESS,))[OBJECTNESS][0])
        if not np.isfinite(objectness):
            raise FrameError("the neural filter's output is not finite")
        if objectness < self._threshold:
            packet.empty()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def open_filter(
    folder: Path, bundle: Bundle, engine: str, threads: int, device: str = "cpu", threshold: float | None = None
) -> FilterStage:
    """The filter of a bundle that has one. It is small and decides alone, so it runs in fp32 whatever the others run in.

    Raises EngineError as `open_engine` does.
    """
    neural_filter = bundle.filter
    assert neural_filter is not None
    # To an engine it is the only graph of a bundle like any other.
    alone = bundle.model_copy(
        update={"stages": (neural_filter.graph,), "num_head_stages": 1, "filter": None, "torch_model": None}
    )
    loaded = open_engine(engine, "fp32", folder, alone, 0, (OBJECTNESS,), threads, device)
    return FilterStage(loaded, neural_filter, threshold)
