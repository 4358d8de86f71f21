"""The torch engine: a segment of a bundle's detector run by torch itself, on the CPU or on CUDA (`engine_cuda.py`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..pipeline.errors import EngineError
from ..pipeline.packet import Array
from ..stages.bundle import Bundle
from ..stages.engine import Engine
from .engine_cuda import DTYPES, CudaTorchEngine, compute
from .segment import Segment
from .stored_weights import StoredWeights, stored_weights


class TorchEngine:
    """An `Engine` that gives the same named outputs as the ONNX graph of its segment.

    Its weights are those of `segment`, on `device`, in evaluation mode.
    """

    name = "torch"

    def __init__(
        self, segment: Segment, device: torch.device, precision: str = "fp32", weights: StoredWeights | None = None
    ) -> None:
        """`weights` are held while the engine is open, so that one for another width finds them."""
        self.precision = precision
        self._weights = weights
        self._segment = segment
        self._device = device

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], targets: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """See `Engine.run`. Raises EngineError for an output that the segment does not have."""
        segment = self._segment
        _require(segment, outputs)
        x = torch.from_numpy(inputs[segment.input_name]).to(self._device)
        valid_size = torch.from_numpy(inputs["valid_size"]).to(self._device)
        only_fp32 = all(name in segment.fp32_names for name in outputs)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            values = compute(segment, x, valid_size, self.precision, only_fp32)
            named = dict(zip(segment.fp32_names if only_fp32 else segment.output_names, values, strict=True))
            results = {}
            for name in outputs:
                target = None if targets is None else targets.get(name)
                if target is None:
                    results[name] = np.ascontiguousarray(named[name].cpu().numpy())
                else:
                    torch.from_numpy(target).copy_(named[name])
                    results[name] = target
        return results

    def close(self) -> None:
        """Free the weights, as far as no other engine has them."""
        self._weights = None
        del self._segment


def open_torch_engine(
    folder: str | os.PathLike[str],
    bundle: Bundle,
    stage_index: int,
    threads: int,
    device: str = "cpu",
    outputs: Sequence[str] = (),
    precision: str = "fp32",
) -> Engine:
    """Load one stage of a bundle that was exported with its weights; an `EngineOpener` of `stages/engines/registry.py`.

    The engines of one stage at several widths (`Bundle.at_width`) share one set of weights.
    `precision` is fp32 or bf16, on CUDA also fp16.
    `device` is a torch device, or "auto" for CUDA where there is one; on the CPU `threads` threads compute, a setting of the
    whole process. Any output can be asked for at each run, so `outputs` is only checked. Raises EngineError when the bundle
    has no torch weights or they do not fit, or the device, precision or an output is not there.
    """
    if bundle.torch_model is None:
        raise EngineError("this bundle has no weights for torch; export it again with them, or choose another engine")
    chosen = _device(device)
    known = tuple(DTYPES) if chosen.type == "cuda" else ("fp32", "bf16")
    if precision not in known:
        raise EngineError(
            f"torch runs this bundle in {' or '.join(known)} on {chosen.type}, not in {precision}; ask for one of them, "
            f"or choose another engine"
        )
    if chosen.type == "cpu":
        torch.set_num_threads(threads)
    weights = stored_weights(Path(folder), bundle, stage_index, chosen)
    segment = weights.segment(bundle)
    _require(segment, outputs)
    if chosen.type == "cuda":
        return CudaTorchEngine(segment, chosen, precision, weights)
    return TorchEngine(segment, chosen, precision, weights)


def _require(segment: Segment, outputs: Sequence[str]) -> None:
    unknown = [name for name in outputs if name not in segment.output_names]
    if unknown:
        raise EngineError(f"{segment.name} gives {', '.join(segment.output_names)} and no {unknown[0]!r}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(f"torch has no device {name!r} here; use cpu") from error
    return device
