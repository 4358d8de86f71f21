"""What a run wants of a graph, made from the float32 outputs of its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from ....pipeline.packet import Array
from ...bundle import WIRE_SUFFIXES, GraphStage, WireType
from ...codec import encode
from ..cuda_kernels import CudaKernels
from .device_tensors import DeviceTensors

_KEY_BYTES = 8


def float_outputs(stage: GraphStage, outputs: Sequence[str]) -> list[str]:
    """The graph's float32 outputs that `outputs` are made from, in order."""
    return list(dict.fromkeys(_source(stage, name)[0] for name in outputs))


class WireOutputs:
    """Queues kernels and copies for the outputs asked for. For the thread that owns the CUDA context."""

    def __init__(self, stage: GraphStage, tensors: DeviceTensors, kernels: CudaKernels | None) -> None:
        self._stage = stage
        self._tensors = tensors
        self._kernels = kernels
        self._memory: dict[str, Any] = {}

    def fetch(self, outputs: Sequence[str], targets: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Queue what makes and fetches `outputs`; call the result once the stream is done, and it gives them by name.

        Raises KeyError for an output that the engine was not opened with, ValueError for a target that does not fit.
        """
        places: dict[str, Array] = {}
        by_codec: dict[str, Array] = {}
        quantised: set[str] = set()
        for name in outputs:
            base, suffix = _source(self._stage, name)
            if base not in self._tensors.slots:
                raise KeyError(f"it was not loaded with output [{base}]")
            slot = self._tensors.slots[base]
            target = targets.get(name)
            if not suffix:
                places[name] = self._tensors.fetch(self._tensors.memory(base), name, slot.shape, slot.dtype, target)
            elif self._kernels is None:
                if base not in by_codec:
                    by_codec[base] = self._tensors.fetch(
                        self._tensors.memory(base), base, slot.shape, slot.dtype, targets.get(base)
                    )
            else:
                if suffix == "_fp16":
                    self._kernels.narrow(
                        self._tensors.memory(base), slot.num_elements, self._scratch(name, 2 * slot.num_elements)
                    )
                elif base not in quantised:
                    quantised.add(base)
                    self._quantise(base, slot.num_elements)
                shape, dtype = _form(suffix, slot.shape)
                places[name] = self._tensors.fetch(self._memory[name], name, shape, dtype, target)

        def finish() -> dict[str, Array]:
            results = {name: _placed(place, targets.get(name)) for name, place in places.items()}
            for base, x in by_codec.items():
                results |= self._encoded(base, x, outputs, targets)
            return {name: results[name] for name in outputs}

        return finish

    def _quantise(self, base: str, num_elements: int) -> None:
        assert self._kernels is not None
        self._kernels.quantise(
            self._tensors.memory(base),
            num_elements,
            self._scratch(f"{base} keys", _KEY_BYTES),
            self._scratch(f"{base}_uint8", num_elements),
            self._scratch(f"{base}_scale", 4),
            self._scratch(f"{base}_zero_point", 1),
        )

    def _encoded(self, base: str, x: Array, outputs: Sequence[str], targets: Mapping[str, Array]) -> dict[str, Array]:
        """The forms of `base` that are asked for, by the codec on the CPU. Raises FrameError: it is not finite."""
        results: dict[str, Array] = {}
        for wire, suffixes in WIRE_SUFFIXES.items():
            names = {suffix: base + suffix for suffix in suffixes if suffix and base + suffix in outputs}
            if names:
                out = {suffix: targets[name] for suffix, name in names.items() if name in targets}
                encoded = encode(x, cast(WireType, wire), out)
                results |= {name: encoded[suffix] for suffix, name in names.items()}
        return results

    def _scratch(self, key: str, num_bytes: int) -> Any:
        if key not in self._memory:
            self._memory[key] = self._tensors.new(num_bytes)
        return self._memory[key]


def _source(stage: GraphStage, name: str) -> tuple[str, str]:
    """The float32 tensor that an output is a form of, and the form's suffix; a tensor itself has none."""
    for base in stage.wire_tensors:
        suffix = name.removeprefix(base)
        if name.startswith(base) and any(suffix in suffixes for suffixes in WIRE_SUFFIXES.values()):
            return base, suffix
    return name, ""


def _form(suffix: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
    return {
        "_fp16": (shape, np.float16),
        "_uint8": (shape, np.uint8),
        "_scale": ((1,), np.float32),
        "_zero_point": ((1,), np.uint8),
    }[suffix]


def _placed(place: Array, target: Array | None) -> Array:
    """The target with the result in it, be it written there or not; without one, a copy that outlives the next frame."""
    if target is None:
        return np.array(place)
    if place is not target:
        np.copyto(target, place)
    return target
