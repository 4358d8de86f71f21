"""Noise and colours that all textures are made of, and the seeds that keep the splits apart."""

from __future__ import annotations

from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Split = Literal["train", "test"]
SPLIT_SEED: dict[str, int] = {"train": 11, "test": 29}
"""Part of every seed, so that nothing is ever the same in both splits."""

Plane: TypeAlias = npt.NDArray[np.float32]
Image: TypeAlias = npt.NDArray[np.uint8]


def noise(rng: np.random.Generator, size: int, cell: float, octaves: int = 4, stretch: float = 1.0) -> Plane:
    """Value noise [size, size], zero mean and unit deviation; features of `cell` pixels, `stretch` times longer in x."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        step = cell / 2**octave
        if step < 1.5:
            break
        rows, columns = int(size / step) + 4, int(size / (step * stretch)) + 4
        grid: Plane = rng.standard_normal((rows, columns), np.float32)
        if step > 8:  # a cubic to four times the size and a linear for the rest: as smooth to the eye, much faster
            grid = np.asarray(cv2.resize(grid, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC), np.float32)
        full = (int(columns * step * stretch) + 1, int(rows * step) + 1)
        big = cv2.resize(grid, full, interpolation=cv2.INTER_LINEAR)
        total += np.float32(0.5**octave) * big[:size, :size]
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-6), np.float32)


def random_colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Plane:
    """A colour BGR [3], 0..1, of any hue."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0], np.float32)


def mix(field: Plane, low: Plane, high: Plane) -> Plane:
    """Blend two colours by a field of 0..1: [H, W, 3]."""
    share = np.clip(field, 0, 1)[..., None]
    return np.asarray(low * (1 - share) + high * share, np.float32)
