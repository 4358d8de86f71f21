"""The weights of one stage of a bundle in torch's memory: read once, and shared by the engines of all its widths."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..pipeline.errors import EngineError
from ..stages.bundle import Bundle
from .cut import WIRE_TENSOR
from .detector import build_detector, config_of_arguments, split_detector
from .segment import Segment
from .slimmable import sliced


class StoredWeights:
    """A detector of which only one stage's weights are there; the rest stays without memory."""

    def __init__(self, folder: Path, bundle: Bundle, stage_index: int, device: torch.device) -> None:
        """Raises EngineError: the weights do not fit; UsageError where a library of the detector's is missing."""
        assert bundle.torch_model is not None
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise EngineError("safetensors is not installed; pip install 'splitrail[torch]'") from error
        try:
            self._config = config_of_arguments(bundle.torch_model.arguments)
            with torch.device("meta"):
                self._model: nn.Module = build_detector(self._config)
            prefixes = split_detector(self._model, _cuts(bundle), bundle.preprocess)[stage_index].prefixes
            with safe_open(folder / bundle.torch_model.weights, framework="pt", device=str(device)) as file:
                stored = file.keys()
                state = {name: file.get_tensor(name) for name in stored if name.startswith(prefixes)}
            self._model.load_state_dict(state, strict=False, assign=True)
            missing = [
                name for name, value in self._model.state_dict().items() if name.startswith(prefixes) and value.is_meta
            ]
        except (OSError, TypeError, RuntimeError, SafetensorError) as error:
            raise EngineError(f"the torch weights of this bundle do not fit ({error}); export it again") from error
        if missing:
            raise EngineError(f"the torch weights of this bundle lack {missing[0]}; export it again")
        self._device = device
        self._stage_index = stage_index

    def segment(self, bundle: Bundle) -> Segment:
        """The stage at the width of `bundle`, in evaluation mode; its tensors are these, or views of them.

        Raises EngineError: the weights have no such width.
        """
        if self._config.widths and bundle.width not in self._config.widths:
            raise EngineError(f"the torch weights of this bundle have no width {bundle.width:g}; export it again")
        model = sliced(self._model, bundle.width, share=True) if self._config.widths else self._model
        segment = split_detector(model, _cuts(bundle), bundle.preprocess)[self._stage_index]
        for name, buffer in list(segment.named_buffers(recurse=False)):
            setattr(segment, name, buffer.to(self._device))
        return segment.eval().requires_grad_(False)


_stored: weakref.WeakValueDictionary[tuple[object, ...], StoredWeights] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def stored_weights(folder: Path, bundle: Bundle, stage_index: int, device: torch.device) -> StoredWeights:
    """Those that an open engine of the same stage has, or newly read ones. Raises as `StoredWeights`."""
    assert bundle.torch_model is not None
    key = (folder.resolve(), bundle.torch_model.sha256, _cuts(bundle), stage_index, str(device))
    with _lock:
        found = _stored.get(key)
        if found is None:
            found = _stored[key] = StoredWeights(folder, bundle, stage_index, device)
    return found


def _cuts(bundle: Bundle) -> tuple[str, ...]:
    cut_of = {tensor: cut for cut, tensor in WIRE_TENSOR.items()}
    tensors: Sequence[str] = [tensor for stage in bundle.stages for tensor in stage.wire_tensors]
    return tuple(cut_of.get(tensor, tensor) for tensor in tensors)
