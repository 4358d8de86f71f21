"""Photographs of the solids, without light: colour, coverage, surface normals and crevices, ready to be lit and pasted.

They are taken by `camera`. The light comes later (`layer`), so that a turned object is still lit from the
scene's side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from .camera import Camera
from .classes import CLASSES, STANDING
from .distractors import DISTRACTORS, DISTRACTORS_HELD_OUT
from .objects import OBJECTS
from .solid import Points, Solid, SolidBuilder
from .tones import SPLIT_SEED, Image, Plane, Split

NUM_SPRITES: dict[str, int] = {"train": 160, "test": 24}
"""Photographs per class: solids of other proportions, paint and view each."""
NUM_DISTRACTOR_SPRITES: dict[str, int] = {"train": 96, "test": 42}
"""Photographs of distractors of all kinds together."""
_OVERSAMPLING = 1.6
"""The photograph is taken this much larger and reduced."""


@dataclass(frozen=True, slots=True)
class Sprite:
    """One photographed solid. Levels of half the size each follow the first (a mip pyramid)."""

    colours: tuple[Image, ...]
    """uint8 [h, w, 4] BGR and coverage; the colour goes on beyond the edge."""
    surfaces: tuple[Image, ...]
    """uint8 [h, w, 4]: normal x (right), y (down), z (to the camera) as 255 (n + 1) / 2, and openness, dark in crevices."""
    centre: tuple[float, float]
    """x, y of the pivot in the first level, pixels."""
    hull: Points
    """[n, 2] convex outline about the pivot, pixels of the first level."""
    diameter: float
    """Largest distance between two points of the hull, pixels."""
    keypoints: Points
    """[5, 3] x, y about the pivot, pixels of the first level, and 1 where the solid itself does not hide it, else 0;
    [0, 3] for a distractor."""
    gloss: float
    """Strength of the highlight, 0..1."""
    kind: str
    upright: bool
    """Whether it stands: it may lean a little with the camera but does not lie."""

    def extent(self, angle: float) -> tuple[float, float]:
        """Width and height of the box around the hull turned by `angle` radians, pixels of the first level."""
        c, s = np.cos(angle), np.sin(angle)
        x = c * self.hull[:, 0] - s * self.hull[:, 1]
        y = s * self.hull[:, 0] + c * self.hull[:, 1]
        return float(x.max() - x.min()), float(y.max() - y.min())


@lru_cache(maxsize=2048)
def object_sprite(split: Split, label: int, index: int, side: int) -> Sprite:
    """Photograph `index` of the class, at most `side` pixels in width and height."""
    rng = np.random.default_rng([SPLIT_SEED[split], 2, label, index])
    return _photograph(CLASSES[label], OBJECTS[CLASSES[label]], rng, split, side)


@lru_cache(maxsize=256)
def distractor_sprite(split: Split, index: int, side: int) -> Sprite:
    """Photograph `index` of the distractors, at most `side` pixels in width and height."""
    rng = np.random.default_rng([SPLIT_SEED[split], 3, index])
    kinds = {**DISTRACTORS, **DISTRACTORS_HELD_OUT} if split == "test" else DISTRACTORS
    kind = list(kinds)[index % len(kinds)]
    return _photograph(kind, kinds[kind], rng, split, side)


def _view(kind: str, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Rotation [3, 3] from the solid's axes to the camera's: x right, y down, z to the camera."""
    turn = rng.uniform(0, 2 * np.pi)
    if kind in STANDING:
        elevation = np.deg2rad(rng.uniform(12, 55))
        if kind == "mug":  # the handle stays in sight
            turn = rng.uniform(-0.8, 0.8) + (np.pi if rng.random() < 0.5 else 0.0)
    else:
        elevation = np.deg2rad(rng.uniform(42, 80))
    c, s = np.cos(turn), np.sin(turn)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    up, toward = np.sin(elevation), np.cos(elevation)
    return np.asarray(np.array([[1, 0, 0], [0, -up, -toward], [0, -toward, up]]) @ about_z, np.float64)


def _photograph(
    kind: str, build: Callable[[SolidBuilder], Solid], rng: np.random.Generator, split: Split, side: int
) -> Sprite:
    solid = build(SolidBuilder(rng, split, points_per_unit=0.52 * _OVERSAMPLING * side))
    camera = Camera(solid, _view(kind, rng), round(_OVERSAMPLING * side))
    shot = camera.shoot()
    size = (round(camera.width / _OVERSAMPLING), round(camera.height / _OVERSAMPLING))
    shrink = np.array(size, np.float32) / np.array([camera.width, camera.height], np.float32)
    colours = [_join(_reduce(shot.colour, size), _reduce(shot.cover, size))]
    surfaces = [_join(_reduce((shot.normal + 1) * np.float32(127.5), size), _reduce(shot.openness * 255, size))]
    while min(colours[-1].shape[:2]) >= 12:
        colours.append(_halve(colours[-1]))
        surfaces.append(_halve(surfaces[-1]))

    centre = np.array(size, np.float32) / 2
    hull = np.asarray(_hull(colours[0][..., 3]) - centre, np.float32)
    if kind == "ball":
        left, top = hull.min(0).tolist()
        right, bottom = hull.max(0).tolist()
        x, y = (left + right) / 2, (top + bottom) / 2
        keypoints = np.array([(x, y, 1), (x, top, 1), (right, y, 1), (x, bottom, 1), (left, y, 1)], np.float32)
    else:
        keypoints = camera.locate(solid.keypoints, shot)
        keypoints[:, :2] = keypoints[:, :2] * shrink - centre
    return Sprite(
        colours=tuple(colours),
        surfaces=tuple(surfaces),
        centre=(float(centre[0]), float(centre[1])),
        hull=hull,
        diameter=float(np.sqrt(((hull[:, None] - hull[None]) ** 2).sum(-1)).max()),
        keypoints=keypoints,
        gloss=solid.gloss,
        kind=kind,
        upright=kind in STANDING,
    )


def _hull(cover: Image) -> Points:
    """Convex outline [n, 2] x, y of the pixels that are at least half covered, along their edges."""
    inside = cover >= 128
    rows = np.flatnonzero(inside.any(1))
    first = inside[rows].argmax(1)
    last = inside.shape[1] - inside[rows, ::-1].argmax(1)
    corners = [np.stack([columns, rows + step], 1) for columns in (first, last) for step in (0, 1)]
    return np.asarray(cv2.convexHull(np.concatenate(corners).astype(np.int32))[:, 0], np.float32)


def _reduce(image: Plane | Image, size: tuple[int, int]) -> Image:
    """Average down to `size` (width, height), rounded to uint8."""
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(np.rint(small), 0, 255), np.uint8)


def _halve(image: Image) -> Image:
    """Average 2x2 pixels; an odd last row or column is repeated, so that pixel x of the half is 2x, 2x + 1 of the whole."""
    height, width = image.shape[:2]
    even = np.asarray(cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
    return _reduce(even, (even.shape[1] // 2, even.shape[0] // 2))


def _join(three: Image, one: Image) -> Image:
    return np.ascontiguousarray(np.concatenate([three, one[..., None]], 2))
