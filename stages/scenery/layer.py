"""One solid in the picture: where it is, which pixels it covers, its light and its shadow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from .look import Look
from .sprites import Sprite
from .tones import Image, Plane

DISTRACTOR = -1
"""Label of what is no object."""
_SQUARE = (np.arange(256, dtype=np.float32) / 255) ** 2
"""From a picture's values to light: gamma 2."""
_SHARPNESS = 32
"""Exponent of the highlights (Blinn and Phong)."""
_COARSE = 4
"""Shadows are made at this many times less resolution: they are soft."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sprite placed in the picture."""

    sprite: Sprite
    label: int
    """Index into `CLASSES`, or `DISTRACTOR`."""
    identity: int
    x: float
    y: float
    """Of the sprite's pivot, pixels of the picture."""
    scale: float
    """Pixels of the picture per pixel of the sprite's first level."""
    angle: float
    """Clockwise turn in the picture, radians."""
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Gain of blue, green and red."""
    order: tuple[int, int, int] = (0, 1, 2)
    """Which of the sprite's channels become blue, green and red: other paint on the same solid."""
    motion: tuple[float, float] = (0.0, 0.0)
    """How far it moves while the shutter is open, pixels."""


@dataclass(slots=True)
class Layer:
    """An item's patch of the picture. Rows and columns may lie outside the picture; `inside` cuts that away."""

    item: Item
    left: int
    top: int
    colour: Image
    """[h, w, 4] BGR, unlit, and coverage."""
    matrix: npt.NDArray[np.float64]
    """[2, 3] from the sprite's level to the patch."""
    level: int
    extent: float
    """Longer side of the box around the whole solid, pixels."""
    cover: Image = field(init=False)
    """[h, w] the coverage alone."""
    solid: npt.NDArray[np.bool_] = field(init=False)
    """[h, w] where at least half a pixel is covered, outside the picture too: this is the truth's mask."""
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.cover = np.ascontiguousarray(self.colour[..., 3])
        self.solid = self.cover >= 128
        self.area = int(np.count_nonzero(self.solid))

    def inside(self, size: tuple[int, int]) -> tuple[slice, slice, slice, slice]:
        """Rows and columns of the picture that the patch covers, then the same of the patch; empty where it is outside."""
        height, width = self.solid.shape
        top, bottom = max(0, self.top), max(0, min(size[0], self.top + height))
        left, right = max(0, self.left), max(0, min(size[1], self.left + width))
        top, left = min(top, bottom), min(left, right)
        rows, columns = slice(top, bottom), slice(left, right)
        return rows, columns, slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)


def lay(item: Item) -> Layer:
    """Turn and scale the sprite into its patch."""
    sprite, level, scale = item.sprite, 0, item.scale
    while scale <= 0.5 and level + 1 < len(sprite.colours):
        level, scale = level + 1, scale * 2
    c, s = math.cos(item.angle), math.sin(item.angle)
    outline = sprite.hull @ np.array([[c, s], [-s, c]]) * item.scale
    (first_x, first_y), (last_x, last_y) = outline.min(0).tolist(), outline.max(0).tolist()
    pad = 3 + int(max(abs(item.motion[0]), abs(item.motion[1])) / 2)
    left, top = math.floor(item.x + first_x) - pad, math.floor(item.y + first_y) - pad
    right, bottom = math.ceil(item.x + last_x) + pad, math.ceil(item.y + last_y) + pad
    x, y = sprite.centre[0] / 2**level - 0.5, sprite.centre[1] / 2**level - 0.5
    matrix = scale * np.array([[c, -s, s * y - c * x], [s, c, -s * x - c * y]])
    matrix[:, 2] += (item.x - left - 0.5, item.y - top - 0.5)
    colour = cv2.warpAffine(sprite.colours[level], matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    extent = max(last_x - first_x, last_y - first_y)
    return Layer(item, left, top, np.asarray(colour, np.uint8), matrix, level, extent)


def paste(canvas: Plane, layer: Layer, look: Look) -> None:
    """Light the layer and lay it over the canvas float32 [H, W, 3] (linear light), in place, after its shadow."""
    rows, columns, patch_rows, patch_columns = layer.inside((canvas.shape[0], canvas.shape[1]))
    _shade(canvas, layer, look)
    if rows.start == rows.stop or columns.start == columns.stop:
        return
    lit, coverage = _light(layer, look)
    if math.hypot(*layer.item.motion) > 1.0:
        kernel = streak(*layer.item.motion)
        lit = np.asarray(cv2.filter2D(lit, -1, kernel), np.float32)
        coverage = np.asarray(cv2.filter2D(coverage, -1, kernel), np.float32)
    part = canvas[rows, columns]
    _dim(part, 1 - coverage[patch_rows, patch_columns])
    cv2.add(part, lit[patch_rows, patch_columns], dst=part)


def _dim(part: Plane, gain: Plane) -> None:
    """Multiply [h, w, 3] by [h, w] in place (NumPy's own broadcasting is several times slower here)."""
    cv2.multiply(part, cv2.merge((gain, gain, gain)), dst=part)


def _light(layer: Layer, look: Look) -> tuple[Plane, Plane]:
    """The layer in linear light times its coverage [h, w, 3], and the coverage [h, w]."""
    item = layer.item
    height, width = layer.solid.shape
    surface = cv2.warpAffine(
        item.sprite.surfaces[layer.level], layer.matrix, (width, height), flags=cv2.INTER_LINEAR
    ).astype(np.float32)
    c, s = math.cos(item.angle), math.sin(item.angle)
    x, y, z = look.light
    half = math.sqrt(2 + 2 * z)  # length of the light's direction plus the camera's
    rows = []
    for towards in ((x, y, z), (x / half, y / half, (z + 1) / half), (0.0, -1.0, 0.0)):
        a, b = c * towards[0] + s * towards[1], c * towards[1] - s * towards[0]
        rows.append([a / 127.5, b / 127.5, towards[2] / 127.5, 0, -(a + b + towards[2])])
    main, shine, sky, openness = cv2.split(cv2.transform(surface, np.array([*rows, [0, 0, 0, 1 / 255, 0]])))
    coverage = layer.cover * np.float32(1 / 255)
    # Ambient light is 0.75 to 1.1 times its strength: the sky is a little brighter than the ground.
    strength = (
        np.maximum(main, 0) + np.maximum(sky * np.float32(0.35 * look.ambient), 0) + np.float32(0.75 * look.ambient)
    )
    strength *= openness * coverage
    paint = cv2.split(layer.colour)
    lit = cv2.LUT(cv2.merge([paint[channel] for channel in item.order]), _SQUARE)
    cv2.multiply(lit, cv2.merge([strength * np.float32(gain) for gain in item.tint]), dst=lit)
    highlight = cv2.pow(np.maximum(shine, 0), _SHARPNESS) * coverage * np.float32(0.5 * item.sprite.gloss)
    cv2.add(lit, cv2.merge((highlight, highlight, highlight)), dst=lit)
    return np.asarray(lit, np.float32), np.asarray(coverage, np.float32)


def _shade(canvas: Plane, layer: Layer, look: Look) -> None:
    """Darken the canvas by the shadow that the layer casts on what is behind it."""
    height, width = layer.solid.shape
    across_x, across_y = -look.light[0] / look.light[2], -look.light[1] / look.light[2]
    upright = layer.item.sprite.upright
    # A fall (p, q, r, s) takes the patch's x, y to x + p y + q, r y + s.
    lift = (0.05 if upright else 0.09) * layer.extent
    falls = [(0.0, lift * across_x, 1.0, lift * across_y)]
    if upright:  # every point falls by its height above the middle of the foot
        foot, lean_x, lean_y = 0.86 * height, 0.7 * across_x, 0.45 * across_y
        falls.append((-lean_x, lean_x * foot, -lean_y, foot * (1 + lean_y)))
    soft = max(1.0, 0.035 * layer.extent)
    xs = [layer.left + q + p * y for p, q, _, _ in falls for y in (0, height)]
    ys = [layer.top + s + r * y for _, _, r, s in falls for y in (0, height)]
    left, top = (max(0, math.floor((min(values) - 3 * soft) / _COARSE)) for values in (xs, ys))
    right = min(math.ceil((max(xs) + width + 3 * soft) / _COARSE), -(-canvas.shape[1] // _COARSE))
    bottom = min(math.ceil((max(ys) + 3 * soft) / _COARSE), -(-canvas.shape[0] // _COARSE))
    if right <= left or bottom <= top:
        return
    cell = (max(1, width // _COARSE), max(1, height // _COARSE))
    small = cv2.resize(layer.cover, cell, interpolation=cv2.INTER_AREA)
    u, v = width / cell[0], height / cell[1]
    shadow = np.zeros((bottom - top, right - left), np.uint8)
    for p, q, r, s in falls:
        shift_x = (u / 2 + p * v / 2 + q + layer.left) / _COARSE - left - 0.5
        shift_y = (r * v / 2 + s + layer.top) / _COARSE - top - 0.5
        matrix = np.array([[u / _COARSE, p * v / _COARSE, shift_x], [0, r * v / _COARSE, shift_y]])
        np.maximum(shadow, cv2.warpAffine(small, matrix, (right - left, bottom - top)), out=shadow)
    blurred = cv2.GaussianBlur(shadow, (0, 0), max(0.5, soft / _COARSE)).astype(np.float32)
    depth = np.float32(0.9 / (1 + look.ambient) / 255)
    kept = cv2.resize(1 - depth * blurred, None, fx=_COARSE, fy=_COARSE, interpolation=cv2.INTER_LINEAR)
    part = canvas[top * _COARSE : bottom * _COARSE, left * _COARSE : right * _COARSE]
    _dim(part, kept[: part.shape[0], : part.shape[1]])


def streak(dx: float, dy: float) -> Plane:
    """A line of `dx`, `dy` pixels about the middle as a filter kernel that sums to 1."""
    half = math.ceil(max(abs(dx), abs(dy)) / 2) + 1
    share = np.linspace(-0.5, 0.5, 4 * half + 1)
    x, y = half + dx * share, half + dy * share
    column, row = x.astype(np.int64), y.astype(np.int64)
    u, v = x - column, y - row
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        np.add.at(kernel, (row + down, column + right), (u if right else 1 - u) * (v if down else 1 - v))
    return np.asarray(kernel / kernel.sum(), np.float32)
