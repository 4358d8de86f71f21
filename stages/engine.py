"""The engine contract: something that runs one graph of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..pipeline.packet import Array


class Engine(Protocol):
    """One loaded graph. Used by one thread; `run` lets go of the interpreter lock while it computes."""

    name: str
    """onnxruntime, openvino, torch, tensorrt."""
    precision: str
    """fp32, bf16, fp16, int8."""

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Compute the named outputs, in order.

        `inputs` are C-contiguous arrays of the graph's dtypes. Where `targets` has an output's name, the output is written
        into that array (of its exact dtype and shape) and that very array is returned; if the engine can bind it there is
        no copy. Other outputs are arrays that stay valid until the caller drops them.
        """

    def close(self) -> None:
        """Free the graph."""
