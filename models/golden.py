"""Golden frames: made-up pictures with the statistics of real ones, by which every engine's results are checked."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ..pipeline.packet import Array
from ..stages.bundle import PreProcess


class GoldenFrame(NamedTuple):
    """One input of the detector."""

    pixels: Array
    """[1, H, W, 3] RGB, uint8 or, for an R-CNN, float32; zero outside the valid size."""
    valid_size: npt.NDArray[np.int64]
    """[2] height and width of the part that shows the picture."""


def golden_frames(preprocess: PreProcess, num_frames: int, seed: int) -> list[GoldenFrame]:
    """Frames that the bundle accepts, the same for the same seed.

    Fixed size: every second one is padded, in turn on the right and at the bottom. Dynamic: landscape and portrait in
    turn, well below the largest size, sides that are no multiples of 32.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(num_frames):
        if preprocess.size is not None:
            height, width = preprocess.size
            valid = ((height, width), (height, width * 3 // 4), (height, width), (height * 2 // 3, width))[index % 4]
        else:
            short = min(preprocess.short_side, preprocess.max_long_side)
            valid = ((short * 3 // 5, short * 4 // 5), (short * 13 // 20, short * 2 // 5))[index % 2]
            height, width = valid
        pixels = np.zeros((1, *preprocess.padded((height, width)), 3), preprocess.pixel_dtype)
        pixels[0, : valid[0], : valid[1]] = picture(valid, rng)
        frames.append(GoldenFrame(pixels, np.array(valid, np.int64)))
    return frames


def picture(size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """RGB [H, W, 3]: soft background, a dozen shaded shapes, sensor noise."""
    height, width = size
    soft = rng.uniform(50, 200, (4, 5, 1)) + rng.uniform(-25, 25, (4, 5, 3))
    result = cv2.resize(soft.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    shade = np.linspace(0.7, 1.1, width, dtype=np.float32)[None, :, None]
    for _ in range(12):
        shape = np.zeros((height, width), np.float32)
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.uniform(0.03, 0.25) * min(size)) + 1, int(rng.uniform(0.03, 0.25) * min(size)) + 1)
        angle = float(rng.uniform(0, 180))
        if rng.random() < 0.5:
            cv2.ellipse(shape, centre, axes, angle, 0, 360, 1.0, -1)
        else:
            cv2.fillConvexPoly(shape, cv2.boxPoints((centre, axes, angle)).astype(np.int32), 1.0)
        alpha = cv2.GaussianBlur(shape, (0, 0), 0.8)[:, :, None]
        colour = (rng.uniform(30, 220) + rng.uniform(-60, 60, 3)).astype(np.float32)
        result = result * (1 - alpha) + colour * shade * alpha
    result = result + rng.normal(0, 4, result.shape)
    rounded: npt.NDArray[np.uint8] = np.clip(np.rint(result), 0, 255).astype(np.uint8)
    return rounded
