"""How a generated scene is lit and filmed: everything about a picture but the objects in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .grounds import NUM_GROUNDS
from .tones import Plane, Split

_FIELD_Y, _FIELD_X = np.mgrid[-1:1:5j, -1:1:6j]


@dataclass(frozen=True, slots=True)
class Look:
    """Light, camera and sensor. Lengths are shares of the picture's short side."""

    ground: int
    """Number of the ground texture."""
    view: npt.NDArray[np.float32]
    """[4, 2] x, y on the ground texture, pixels, of the picture's corners: top left, top right, bottom right, bottom left."""
    pan: tuple[float, float]
    """How far the ground is moved in the picture, right and down."""
    light: tuple[float, float, float]
    """Unit vector towards the main light: right, down, to the camera."""
    ambient: float
    """Light from everywhere, as a share of the main light."""
    field: Plane
    """[5, 6, 3] BGR: the light's strength and colour over the picture."""
    exposure: float
    vignette: float
    """How much darker the corners are, 0..1."""
    blur: float
    """Standard deviation of the lens blur."""
    motion: tuple[float, float]
    """How far the picture moved while the shutter was open."""
    grain: float
    """Standard deviation of the sensor's noise, of 255."""
    grain_seed: int
    """Which piece of the noise."""


def random_look(rng: np.random.Generator, split: Split, size: tuple[int, int]) -> Look:
    """A look drawn at random for pictures of `size` (height, width)."""
    turn = rng.uniform(0, 2 * np.pi)
    height = np.deg2rad(rng.uniform(35, 75))
    light = (float(np.cos(turn) * np.cos(height)), float(np.sin(turn) * np.cos(height)), float(np.sin(height)))
    return Look(
        ground=int(rng.integers(0, NUM_GROUNDS[split])),
        view=_random_view(rng, size),
        pan=(0.0, 0.0),
        light=light,
        ambient=float(rng.uniform(0.25, 0.6)),
        field=_random_field(rng, light),
        exposure=float(np.exp(rng.normal(0.08, 0.28))),
        vignette=float(rng.uniform(0.05, 0.45)),
        blur=float(rng.uniform(0.0, 0.0032)),
        motion=_random_motion(rng),
        grain=float(rng.uniform(1.0, 7.0)),
        grain_seed=int(rng.integers(0, 1 << 31)),
    )


def _random_view(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A trapezium on the ground: the camera looks down aslant, so the far edge (the top) shows more of the ground."""
    scale = min(256 * rng.uniform(0.75, 1.35) / min(size), 440 / max(size))
    half_width, half_height = size[1] * scale / 2, size[0] * scale / 2
    far = float(rng.uniform(1.0, 1.45))
    corners = np.array([[-far, -1.1], [far, -1.1], [1, 1], [-1, 1]]) * (half_width, half_height)
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    corners = corners @ np.array([[c, s], [-s, c]])
    slack = np.maximum(0, 310 - np.abs(corners).max(0))
    return np.asarray(corners + 320 + rng.uniform(-1, 1, 2) * slack, np.float32)


def _random_field(rng: np.random.Generator, light: tuple[float, float, float]) -> Plane:
    """Light that falls off away from the lamp, with a pool of light or shade, and the colours of lamp and surroundings."""
    x, y = _FIELD_X, _FIELD_Y
    slope = rng.uniform(0, 0.35) * (light[0] * x + light[1] * y)
    cx, cy = rng.uniform(-1, 1, 2)
    pool = rng.uniform(-0.35, 0.45) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.3, 1.5))
    strength = np.clip(1 + slope + pool + rng.normal(0, 0.03, x.shape), 0.35, 1.8)
    warmth = rng.normal(0, 0.09)
    colour = np.array([1 - warmth, 1.0 + rng.normal(0, 0.025), 1 + warmth])
    return np.asarray(strength[..., None] * colour, np.float32)


def _random_motion(rng: np.random.Generator) -> tuple[float, float]:
    """Two of three pictures are still; the others are smeared by up to 2 %."""
    if rng.random() < 0.65:
        return 0.0, 0.0
    turn, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.004, 0.02)
    return float(np.cos(turn) * length), float(np.sin(turn) * length)
