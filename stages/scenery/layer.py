"""One solid in the picture: where it is, which pixels it covers, its light and its shadow."""

from __future__ import annotations

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

    def extent(self) -> tuple[float, float]:
        """Width and height of the whole solid's box, pixels."""
        width, height = self.sprite.extent(self.angle)
        return width * self.scale, height * self.scale


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
    solid: npt.NDArray[np.bool_] = field(init=False)
    """[h, w] where at least half a pixel is covered, outside the picture too: this is the truth's mask."""
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.solid = self.colour[..., 3] >= 128
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
    c, s = float(np.cos(item.angle)), float(np.sin(item.angle))
    turn = np.array([[c, -s], [s, c]])
    outline = sprite.hull @ (turn.T * item.scale) + (item.x, item.y)
    pad = 2 + int(max(abs(item.motion[0]), abs(item.motion[1])) / 2 + 1)
    left, top = (np.floor(outline.min(0)).astype(int) - pad).tolist()
    right, bottom = (np.ceil(outline.max(0)).astype(int) + pad).tolist()
    pivot = np.array(sprite.centre) / 2**level - 0.5
    shift = np.array([item.x - left, item.y - top]) - 0.5 - scale * (turn @ pivot)
    matrix = np.concatenate([scale * turn, shift[:, None]], 1)
    colour = cv2.warpAffine(sprite.colours[level], matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
    return Layer(item, left, top, np.asarray(colour, np.uint8), matrix, level)


def paste(canvas: Plane, layer: Layer, look: Look) -> None:
    """Light the layer and lay it over the canvas float32 [H, W, 3] (linear light), in place, after its shadow."""
    rows, columns, patch_rows, patch_columns = layer.inside((canvas.shape[0], canvas.shape[1]))
    _shade(canvas, layer, look)
    if rows.start == rows.stop or columns.start == columns.stop:
        return
    lit, coverage = _light(layer, look)
    if float(np.hypot(*layer.item.motion)) > 1.0:
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
    c, s = float(np.cos(item.angle)), float(np.sin(item.angle))
    middle = np.add(look.light, (0, 0, 1))
    rows = np.zeros((4, 5))
    for row, (x, y, z) in enumerate((look.light, middle / np.linalg.norm(middle), (0.0, -1.0, 0.0))):
        towards = np.array([c * x + s * y, -s * x + c * y, z])
        rows[row, :3] = towards / 127.5
        rows[row, 4] = -towards.sum()
    rows[3, 3] = 1 / 255
    main, shine, sky, openness = cv2.split(np.maximum(cv2.transform(surface, rows), 0))
    *paint, cover = cv2.split(layer.colour)
    coverage = cover * np.float32(1 / 255)
    strength = (np.float32(look.ambient) * (np.float32(0.75) + np.float32(0.35) * sky) + main) * openness * coverage
    lit = cv2.LUT(cv2.merge([paint[channel] for channel in item.order]), _SQUARE)
    cv2.multiply(lit, cv2.merge([strength * np.float32(gain) for gain in item.tint]), dst=lit)
    highlight = cv2.pow(shine, _SHARPNESS) * coverage * np.float32(0.5 * item.sprite.gloss)
    cv2.add(lit, cv2.merge((highlight, highlight, highlight)), dst=lit)
    return np.asarray(lit, np.float32), np.asarray(coverage, np.float32)


def _shade(canvas: Plane, layer: Layer, look: Look) -> None:
    """Darken the canvas by the shadow that the layer casts on what is behind it."""
    item = layer.item
    height, width = layer.solid.shape
    across = (-look.light[0] / look.light[2], -look.light[1] / look.light[2])
    extent = max(item.extent())
    lift = (0.05 if item.sprite.upright else 0.09) * extent
    falls = [np.array([[1, 0, lift * across[0]], [0, 1, lift * across[1]]])]
    if item.sprite.upright:  # every point falls by its height above the middle of the foot
        foot, lean_x, lean_y = 0.86 * height, 0.7 * across[0], 0.45 * across[1]
        falls.append(np.array([[1, -lean_x, lean_x * foot], [0, -lean_y, foot * (1 + lean_y)]]))
    soft = max(1.0, 0.035 * extent)
    offset = np.array([layer.left, layer.top])
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
    reached = np.concatenate([corners @ fall[:, :2].T + fall[:, 2] for fall in falls]) + offset
    low = np.maximum(np.floor((reached.min(0) - 3 * soft) / _COARSE).astype(int), 0)
    last = [-(-canvas.shape[1] // _COARSE), -(-canvas.shape[0] // _COARSE)]
    high = np.minimum(np.ceil((reached.max(0) + 3 * soft) / _COARSE).astype(int), last)
    if (high <= low).any():
        return
    cell = (max(1, width // _COARSE), max(1, height // _COARSE))
    small = cv2.resize(np.ascontiguousarray(layer.colour[..., 3]), cell, interpolation=cv2.INTER_AREA)
    grid = np.array([width / cell[0], height / cell[1]])
    shadow = np.zeros(tuple((high - low)[::-1].tolist()), np.uint8)
    for fall in falls:
        linear = fall[:, :2] * grid / _COARSE
        shift = (fall[:, :2] @ (grid / 2) + fall[:, 2] + offset) / _COARSE - low - 0.5
        cast = cv2.warpAffine(small, np.concatenate([linear, shift[:, None]], 1), tuple((high - low).tolist()))
        np.maximum(shadow, cast, out=shadow)
    blurred = cv2.GaussianBlur(shadow, (0, 0), max(0.5, soft / _COARSE)).astype(np.float32)
    depth = np.float32(0.9 / (1 + look.ambient) / 255)
    kept = cv2.resize(1 - depth * blurred, None, fx=_COARSE, fy=_COARSE, interpolation=cv2.INTER_LINEAR)
    part = canvas[low[1] * _COARSE : high[1] * _COARSE, low[0] * _COARSE : high[0] * _COARSE]
    _dim(part, kept[: part.shape[0], : part.shape[1]])


def streak(dx: float, dy: float) -> Plane:
    """A line of `dx`, `dy` pixels about the middle as a filter kernel that sums to 1."""
    half = int(np.ceil(max(abs(dx), abs(dy)) / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 4 * half + 1):
        x, y = half + dx * share, half + dy * share
        column, row = int(x), int(y)
        u, v = x - column, y - row
        kernel[row : row + 2, column : column + 2] += np.outer([1 - v, v], [1 - u, u]).astype(np.float32)
    return np.asarray(kernel / kernel.sum(), np.float32)
