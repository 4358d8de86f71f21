"""The torch engine on CUDA: a segment on a GPU, its copies on a stream beside the one that computes.

    copies     pixels in --.                      .-- outputs out --.
    computing              '--> graph or calls ---'                 '--> the caller is woken

The shapes of a bundle repeat, so every shape is prepared once: page-locked host buffers, device buffers, and a CUDA graph
where capturing works and replaying beats calling (measured when the shape is first seen, which is before timing starts).
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..pipeline.errors import EngineError
from ..pipeline.packet import Array
from .quantize import wire_forms
from .segment import Segment
from .stored_weights import StoredWeights

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> the type that convolutions and matrix products are cast to; the outputs are float32 in any case."""
_NUM_TRIALS = 5
_NUM_WARM_UPS = 3
_NUM_TIMES = 512


class Literals(TorchFunctionMode):
    """Makes every `torch.tensor(...)` of a model once: a literal copied to the GPU stalls it, and cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.tensor:
            return func(*args, **kwargs)
        key = f"{args}{sorted(kwargs.items())}"
        if key not in self._made:
            self._made[key] = func(*args, **kwargs)
        return self._made[key]


def compute(segment: Segment, x: Tensor, valid_size: Tensor, precision: str, only_fp32: bool) -> tuple[Tensor, ...]:
    """The segment's float32 outputs, or all forms of its wire tensor, with the inner products in `precision`.

    The outputs come in the order of `segment.fp32_names` or `segment.output_names`.
    """
    dtype = DTYPES[precision]
    with torch.autocast(x.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        values = segment.compute(x, valid_size)
    values = tuple(value.float() for value in values)
    return values if only_fp32 or segment.wire_name is None else tuple(wire_forms(values[0]))


@dataclass
class _Prepared:
    """What runs of one shape share."""

    host_inputs: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = ()
    host_outputs: tuple[Tensor, ...] = ()
    graph: Any = None
    times_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_TIMES))


class CudaTorchEngine:
    """An `Engine` like `TorchEngine`, for one GPU."""

    name = "torch"

    def __init__(
        self, segment: Segment, device: torch.device, precision: str, weights: StoredWeights | None = None
    ) -> None:
        """`segment` is on `device`, in evaluation mode; `weights` as for `TorchEngine`. Raises EngineError for a precision that
        torch does not run."""
        if precision not in DTYPES:
            raise EngineError(f"torch runs bundles in {', '.join(DTYPES)}, not in {precision}")
        self.precision = precision
        self._weights = weights
        # Convolutions on tensor cores want channels last; the graph's outputs are contiguous as before.
        self._segment = segment.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._literals = Literals()
        self._computing = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._prepared: dict[tuple[Any, ...], _Prepared] = {}

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See `Engine.run`. Raises EngineError: an output that the segment does not have, no memory, or CUDA fails."""
        segment = self._segment
        unknown = [name for name in outputs if name not in segment.output_names]
        if unknown:
            raise EngineError(f"{segment.name} gives {', '.join(segment.output_names)} and no {unknown[0]!r}")
        only_fp32 = all(name in segment.fp32_names for name in outputs)
        arrays = (inputs[segment.input_name], inputs["valid_size"])
        try:
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                prepared = self._prepare(arrays, only_fp32)
                self._run(prepared, arrays, only_fp32)
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(
                "the GPU's memory is full; end what else uses it, or take torch:fp16 or a smaller size"
            ) from error
        except RuntimeError as error:
            raise EngineError(f"torch failed on {segment.name}: {str(error).partition(chr(10))[0]}") from error
        names = segment.fp32_names if only_fp32 else segment.output_names
        places = {name: place.numpy() for name, place in zip(names, prepared.host_outputs, strict=True)}
        return {name: _placed(places[name], (targets or {}).get(name)) for name in outputs}

    def device_times_ms(self) -> dict[str, float]:
        """The GPU's own time for one frame, copies left out: median over the last runs of each way it is run, ms."""
        return {
            f"{'graph' if prepared.graph is not None else 'calls'} {tuple(prepared.inputs[0].shape)}": round(
                statistics.median(prepared.times_ms), 3
            )
            for prepared in self._prepared.values()
            if prepared.times_ms
        }

    def close(self) -> None:
        """Free the weights and buffers."""
        self._prepared.clear()
        self._weights = None
        del self._segment

    def _prepare(self, arrays: Sequence[Array], only_fp32: bool) -> _Prepared:
        key = (only_fp32, *((array.shape, array.dtype.str) for array in arrays))
        if key not in self._prepared:
            hosts = tuple(pinned(torch.from_numpy(np.empty_like(array))) for array in arrays)
            prepared = _Prepared(hosts, tuple(host.to(self._device) for host in hosts))
            self._copy_in(prepared, arrays)
            self._computing.wait_stream(self._copying)
            self._choose_graph(prepared, only_fp32)
            prepared.host_outputs = tuple(
                pinned(torch.empty(value.shape, dtype=value.dtype)) for value in prepared.outputs
            )
            self._prepared[key] = prepared
        return self._prepared[key]

    def _choose_graph(self, prepared: _Prepared, only_fp32: bool) -> None:
        """Capture, and keep the graph if it is the faster way."""
        calls_ms = self._time(prepared, only_fp32)
        graph = torch.cuda.CUDAGraph()
        eager_outputs = prepared.outputs
        try:
            with torch.cuda.graph(graph, stream=self._computing):
                prepared.outputs = self._call(prepared, only_fp32)
        except RuntimeError:
            # A graph with sizes that depend on the picture (an R-CNN's tail) cannot be captured.
            torch.cuda.synchronize(self._device)
            prepared.outputs = eager_outputs
            return
        prepared.graph = graph
        if self._time(prepared, only_fp32) > calls_ms:
            prepared.graph, prepared.outputs = None, eager_outputs

    def _time(self, prepared: _Prepared, only_fp32: bool) -> float:
        """Median time of one frame, ms."""
        times_ms = []
        for trial in range(_NUM_WARM_UPS + _NUM_TRIALS):
            begin, end = self._compute(prepared, only_fp32)
            end.synchronize()
            if trial >= _NUM_WARM_UPS:
                times_ms.append(begin.elapsed_time(end))
        return float(statistics.median(times_ms))

    def _run(self, prepared: _Prepared, arrays: Sequence[Array], only_fp32: bool) -> None:
        self._copy_in(prepared, arrays)
        self._computing.wait_stream(self._copying)
        begin, end = self._compute(prepared, only_fp32)
        self._copying.wait_stream(self._computing)
        with torch.cuda.stream(self._copying):
            for host, value in zip(prepared.host_outputs, prepared.outputs, strict=True):
                host.copy_(value, non_blocking=True)
        fetched = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        fetched.record(self._copying)
        # The frame is not done, and no time is taken, before the GPU is; the wait sleeps.
        fetched.synchronize()
        prepared.times_ms.append(begin.elapsed_time(end))

    def _copy_in(self, prepared: _Prepared, arrays: Sequence[Array]) -> None:
        with torch.cuda.stream(self._copying):
            for host, device, array in zip(prepared.host_inputs, prepared.inputs, arrays, strict=True):
                np.copyto(host.numpy(), array)
                device.copy_(host, non_blocking=True)

    def _compute(self, prepared: _Prepared, only_fp32: bool) -> tuple[Any, Any]:
        """Queue the frame; the events are before and behind it."""
        begin = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._computing):
            begin.record(self._computing)
            if prepared.graph is not None:
                prepared.graph.replay()
            else:
                prepared.outputs = self._call(prepared, only_fp32)
            end.record(self._computing)
        return begin, end

    def _call(self, prepared: _Prepared, only_fp32: bool) -> tuple[Tensor, ...]:
        x, valid_size = prepared.inputs
        with self._literals:
            values = compute(self._segment, x, valid_size, self.precision, only_fp32)
        return tuple(value.contiguous() for value in values)


def pinned(tensor: Tensor) -> Tensor:
    """A page-locked copy of a host tensor."""
    return tensor.pin_memory()


def _placed(place: Array, target: Array | None) -> Array:
    """The target with the result in it; without one, a copy that outlives the next frame."""
    if target is None:
        return np.array(place)
    np.copyto(target, place)
    return target
