"""An engine of a few lines of NumPy, for ranks that have no other: it averages blocks of pixels and finds boxes in that.

`rank_program.py` registers it. What it computes is not the bundle's detector, but it depends on every pixel.
"""

import numpy as np


class PlainEngine:
    name, precision = "plain", "fp32"

    def __init__(self, stage):
        self._stage = stage
        self._mixing = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)

    def run(self, inputs, outputs, targets=None):
        values = self._features(**inputs) if "pixels" in inputs else self._boxes(**inputs)
        results = {}
        for name in outputs:
            target = (targets or {}).get(name)
            results[name] = values[name] if target is None else target
            np.copyto(results[name], values[name])
        return results

    def close(self):
        pass

    def _features(self, pixels, valid_size):
        _, height, width, _ = pixels.shape
        blocks = pixels.reshape(height // 8, 8, width // 8, 8, 3).astype(np.float32) / 255
        means, spread = blocks.mean((1, 3)), blocks.std((1, 3))
        stacked = np.concatenate([means, spread, np.ones((*means.shape[:2], 58), np.float32)], axis=2)
        features = np.tanh(np.einsum("hwc,kc->khw", stacked, self._mixing))[None]
        return {"features": features, "features_fp16": features.astype(np.float16)}

    def _boxes(self, features, valid_size):
        flat = features.reshape(16, -1)
        _, queries, classes = self._stage.outputs[0].shape
        summary = flat @ flat.T / flat.shape[1]
        logits = 8 * (summary[:queries, :classes] - summary[:queries].mean(1, keepdims=True))
        boxes = 1 / (1 + np.exp(-summary[:queries, 8:12]))
        return {"pred_logits": logits[None], "pred_boxes": boxes[None]}


def open_engine(folder, bundle, stage_index, *, outputs, threads, precision, device):
    """The opener that `rank_program.py` registers."""
    return PlainEngine(bundle.stages[stage_index])
