"""Entropy coders beside each other on a bundle's own features: zstandard at three levels and constriction's ANS coder.

    pip install constriction 'splitrail[entropy]'
    python docs/examples/coders/coders.py bundles/demo

The features are those of the golden frames, cut where the bundle is cut, quantised by the wire's own codec. For the ANS coder the
model is the frame's own histogram, whose two bytes a symbol are counted. Times are the least of five, on one core.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import constriction  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import zstandard

from splitrail.stages.bundle import Bundle
from splitrail.stages.codec import encode
from splitrail.stages.wire import WireForm

_NUM_REPEATS = 5


def least_ms(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, and the least of five times."""
    times = []
    for _ in range(_NUM_REPEATS):
        begin = time.perf_counter()
        result = work()
        times.append(1e3 * (time.perf_counter() - begin))
    return result, min(times)


def ans(symbols: np.ndarray) -> tuple[int, float, float]:
    """Bytes, and the times to encode and to decode, ms."""

    def write() -> tuple[np.ndarray, Any, int]:
        counts = np.bincount(symbols)
        model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, model)
        return coder.get_compressed(), model, counts.size

    (words, model, num_symbols), write_ms = least_ms(write)
    back, read_ms = least_ms(lambda: constriction.stream.stack.AnsCoder(words).decode(model, symbols.size))
    assert (back == symbols).all()
    return words.nbytes + 2 * num_symbols, write_ms, read_ms


def main(folder: str) -> None:
    """Print a row per coder and number of bits."""
    bundle = Bundle.load(folder)
    cut = bundle.stages[bundle.num_head_stages - 1]
    frames = bundle.golden_frames(folder)
    names = [tensor.name for tensor in cut.outputs if tensor.name in frames[0] and tensor.dtype == "float32"]
    for wire in ("uint8", "uint6", "uint4"):
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for frame in frames:
            for name in names:
                # One code a byte, before packing: what a coder can see.
                low = min(frame[name].min(), 0)
                scale = float(encode(frame[name], wire)["_scale"][0])
                codes = (
                    np.clip(np.rint((frame[name] - low) / scale), 0, WireForm.of(wire).max_code)
                    .astype(np.uint8)
                    .ravel()
                )
                for level in (1, 3, 9):
                    packed, write_ms = least_ms(partial(zstandard.compress, codes.tobytes(), level))
                    _, read_ms = least_ms(partial(zstandard.decompress, packed))
                    rows.setdefault(f"zstandard {level}", []).append((len(packed), write_ms, read_ms))
                rows.setdefault("constriction", []).append(ans(codes.astype(np.int32)))
        for coder, values in rows.items():
            num_bytes, write_ms, read_ms = np.mean(values, axis=0)
            print(f"{wire:6} {coder:12} {num_bytes:9,.0f} bytes  {write_ms:6.2f} + {read_ms:5.2f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
