"""A bundle's graphs, one after the other, for tests that compare engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from splitrail.models.engine import open_torch_engine
from splitrail.stages.bundle import Bundle
from splitrail.stages.engines.registry import open_engine


def run(
    bundle: Bundle, folder: Path, frames: list[dict[str, np.ndarray]], engine: str, loaded: dict[str, Any]
) -> list[dict[str, np.ndarray]]:
    """Head then tail for each frame: every wire tensor and output. `loaded` are the engines by graph: those that no width
    changes are opened once."""
    every = [{"pixels": frame["pixels"], "valid_size": frame["valid_size"]} for frame in frames]
    for index, stage in enumerate(bundle.stages):
        outputs = stage.wire_tensors or tuple(tensor.name for tensor in stage.outputs)
        if stage.graph not in loaded:
            loaded[stage.graph] = (
                open_torch_engine(folder, bundle, index, 1)
                if engine == "torch"
                else open_engine(engine, "fp32", folder, bundle, index, outputs, 1)
            )
        for tensors in every:
            found = loaded[stage.graph].run({tensor.name: tensors[tensor.name] for tensor in stage.inputs}, outputs)
            tensors |= {name: np.array(array) for name, array in found.items()}
    return every
