"""A stage that runs one graph of the bundle."""

from __future__ import annotations

import numpy as np

from ..pipeline.errors import BundleError, MessageError
from ..pipeline.packet import Array, Packet, TensorSpec
from .bundle import WIRE_SUFFIXES, GraphStage, WireType
from .engine import Engine
from .tensors import release_unread, tensor_of
from .wire import GraphForm, WireForm


def outputs_of(stage: GraphStage, wire: WireType | None) -> tuple[str, ...]:
    """The outputs a run needs from a graph, in message order: what an engine is opened with.

    The last graph's are its own outputs; those of any other are its wire tensors in the forms of `wire`, or as the
    float32 tensors themselves (None), where the next graph is on the same rank. Raises BundleError: the graph does not
    offer a form; then `Encode` behind the float32 tensors makes it (`WireForm.graph_form`).
    """
    if not stage.wire_tensors:
        return tuple(tensor.name for tensor in stage.outputs)
    suffixes = WIRE_SUFFIXES.get(wire or "fp32")
    if suffixes is None:
        raise BundleError(f"no graph makes the wire type {wire} itself; choose among {', '.join(WIRE_SUFFIXES)}")
    names = tuple(name + suffix for name in stage.wire_tensors for suffix in suffixes)
    offered = {tensor.name for tensor in stage.outputs}
    for name in names:
        if name not in offered:
            raise BundleError(
                f"the graph [{stage.graph}] has no output [{name}] for the wire type {wire}; "
                f"take another --wire, or export the bundle again"
            )
    return names


def form_of(stage: GraphStage, wire: WireType) -> GraphForm:
    """The form that a graph is asked for where its tensors leave over `wire`: what `Encode` behind it needs not make, or makes
    the wire type from."""
    form = WireForm.of(wire).graph_form
    offered = {tensor.name for tensor in stage.outputs}
    return (
        form if {name + suffix for name in stage.wire_tensors for suffix in WIRE_SUFFIXES[form]} <= offered else "fp32"
    )


class Network:
    """Stage: the packet's tensors become the outputs of one graph.

    It reads the graph's inputs from the packet, `valid_size` from `packet.valid_size`, and writes into `packet.targets`
    what has a place there. The receive buffer goes back as soon as nothing of it is left in the packet. Whether the
    outputs are finite is looked at once, in `postprocess.py`: what is not finite in between ends up there.
    """

    def __init__(self, engine: Engine, stage: GraphStage, wire: WireType | None) -> None:
        """`engine` runs the graph of `stage` and was opened with `outputs_of(stage, wire)`; it is closed with the stage.

        Raises BundleError as `outputs_of` does.
        """
        self.name = stage.name
        self._engine = engine
        self._stage = stage
        self._outputs = outputs_of(stage, wire)

    def process(self, packet: Packet) -> None:
        """Raises MessageError: an input is missing or of another dtype or shape; EngineError: the engine fails."""
        inputs = {
            tensor.name: self._input(packet, tensor.name, tensor.dtype, tensor.shape) for tensor in self._stage.inputs
        }
        targets = packet.targets and {name: packet.targets[name] for name in self._outputs if name in packet.targets}
        before = packet.tensors
        packet.tensors = self._engine.run(inputs, self._outputs, targets)
        release_unread(packet, before)

    def output_specs(self) -> tuple[TensorSpec, ...] | None:
        """What `process` leaves in the packet, in order; None when the shapes vary by frame."""
        offered = {tensor.name: tensor for tensor in self._stage.outputs}
        specs = []
        for name in self._outputs:
            shape = tuple(size for size in offered[name].shape if isinstance(size, int))
            if len(shape) < len(offered[name].shape):
                return None
            specs.append(TensorSpec(name, offered[name].dtype, shape))
        return tuple(specs)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _input(self, packet: Packet, name: str, dtype: str, shape: tuple[int | str, ...]) -> Array:
        if name == "valid_size":
            return np.array(packet.valid_size, np.int64)
        array = tensor_of(packet, name, dtype, self.name)
        fits = len(shape) == array.ndim and all(
            isinstance(wanted, str) or wanted == size for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise MessageError(
                f"frame {packet.frame}: {self.name} reads [{name}] of shape {_text(shape)} and it came as "
                f"{_text(array.shape)}; all ranks need the same bundle"
            )
        return np.ascontiguousarray(array)


def _text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
