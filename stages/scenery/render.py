"""From a look and the placed items to a picture with its truth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from .classes import NUM_KEYPOINTS
from .frame import MAX_OCCLUSION, MIN_SIZE, SceneFrame, SceneTruth
from .grounds import ground
from .layer import DISTRACTOR, Item, Layer, lay, paste, streak
from .look import Look
from .tones import Image, Plane, Split

_FIELD = (48, 40)
"""Columns and rows of the light over the picture before it is enlarged linearly (a cubic to full size is slow)."""
_GRAIN_SLACK = 97
"""The noise is this much larger than a picture, so that each picture takes another piece."""


class Studio:
    """Renders pictures of one size."""

    def __init__(self, size: tuple[int, int], split: Split) -> None:
        self._size = size
        self._split: Split = split
        height, width = size
        y, x = np.mgrid[-1 : 1 : _FIELD[1] * 1j, -1 : 1 : _FIELD[0] * 1j]
        self._corner = ((x * x + y * y) / 2)[..., None].astype(np.float32)
        rng = np.random.default_rng(41)
        fine = rng.standard_normal((height + _GRAIN_SLACK, width + _GRAIN_SLACK, 3), np.float32)
        grey = fine.mean(2, keepdims=True)
        grain = 0.8 * cv2.GaussianBlur(fine, (3, 3), 0.7) + 0.9 * grey  # colour noise is coarser than grey noise
        self._grain = np.asarray(grain / grain.std(), np.float32)

    def render(self, look: Look, items: Sequence[Item], *, strict: bool) -> SceneFrame:
        """Render `items`, nearest last.

        With `strict`, items are left out until every object left is sufficiently in sight; otherwise objects that are
        not are drawn and go to `ignored_boxes`.
        """
        layers = self._arrange(items, strict)
        return self._truth(layers).with_image(self._expose(look, layers))

    def survey(self, items: Sequence[Item], *, strict: bool) -> SceneTruth:
        """The truth of `render`, several times faster, without the picture."""
        return self._truth(self._arrange(items, strict))

    def _arrange(self, items: Sequence[Item], strict: bool) -> list[Layer]:
        layers = [lay(item) for item in items]
        return self._clear(layers) if strict else layers

    def _visible(self, layers: Sequence[Layer]) -> list[npt.NDArray[np.bool_]]:
        """What is seen of each layer, in its own patch inside the picture."""
        covered = np.zeros(self._size, np.bool_)
        seen: list[npt.NDArray[np.bool_]] = []
        for layer in reversed(layers):
            rows, columns, patch_rows, patch_columns = layer.inside(self._size)
            solid = layer.solid[patch_rows, patch_columns]
            part = covered[rows, columns]
            seen.append(solid & ~part)
            part |= solid
        return seen[::-1]

    def _counts(self, layer: Layer, seen: npt.NDArray[np.bool_]) -> bool:
        """Whether enough of the object is seen for the truth."""
        if np.count_nonzero(seen) < (1 - MAX_OCCLUSION) * layer.area or not layer.area:
            return False
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
        return bool(longer >= MIN_SIZE * min(self._size))

    def _clear(self, layers: list[Layer]) -> list[Layer]:
        """Leave out items until every object left is sufficiently in sight: first the distractors above it, then it."""
        while True:
            hidden = [
                index
                for index, (layer, seen) in enumerate(zip(layers, self._visible(layers), strict=True))
                if layer.item.label != DISTRACTOR and not self._counts(layer, seen)
            ]
            if not hidden:
                return layers
            lowest = hidden[0]
            above = [
                index
                for index in range(lowest + 1, len(layers))
                if layers[index].item.label == DISTRACTOR and _overlap(layers[index], layers[lowest])
            ]
            gone = set(above) if above else {lowest}
            layers = [layer for index, layer in enumerate(layers) if index not in gone]

    def _expose(self, look: Look, layers: Sequence[Layer]) -> Image:
        height, width = self._size
        short = min(self._size)
        frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        frame += np.array(look.pan, np.float32) * short
        flat = cv2.warpPerspective(
            ground(self._split, look.ground),
            cv2.getPerspectiveTransform(look.view, frame),
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        lit = ((np.arange(256, dtype=np.float32) / 255) ** 2) * np.float32(0.8 * (1 + look.ambient))
        canvas = np.asarray(cv2.LUT(flat, lit), np.float32)
        for layer in layers:
            paste(canvas, layer, look)
        if look.blur * short > 0.25:
            cv2.GaussianBlur(canvas, (3, 3) if look.blur * short < 0.7 else (5, 5), look.blur * short, dst=canvas)
        if np.hypot(*look.motion) * short > 0.7:
            canvas = np.asarray(cv2.filter2D(canvas, -1, streak(look.motion[0] * short, look.motion[1] * short)))
        field = cv2.resize(look.field, _FIELD, interpolation=cv2.INTER_CUBIC)
        field *= np.float32(look.exposure) * (1 - np.float32(look.vignette) * self._corner)
        cv2.multiply(canvas, cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR), dst=canvas)
        cv2.sqrt(canvas, dst=canvas)
        row, column = look.grain_seed % _GRAIN_SLACK, look.grain_seed // _GRAIN_SLACK % _GRAIN_SLACK
        grain = self._grain[row : row + height, column : column + width]
        return np.asarray(cv2.addWeighted(canvas, 255, grain, look.grain, 0, dtype=cv2.CV_8U), np.uint8)

    def _truth(self, layers: Sequence[Layer]) -> SceneTruth:
        boxes: list[tuple[int, int, int, int]] = []
        occlusion: list[float] = []
        counted: list[Layer] = []
        ignored_boxes: list[tuple[int, int, int, int]] = []
        ignored_labels: list[int] = []
        owner = np.zeros(self._size, np.uint8)
        for layer, seen in zip(layers, self._visible(layers), strict=True):
            if layer.item.label == DISTRACTOR or not seen.any():
                continue
            rows, columns, _, _ = layer.inside(self._size)
            y, x = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            left, top = columns.start + int(x[0]), rows.start + int(y[0])
            box = (left, top, columns.start + int(x[-1]) + 1, rows.start + int(y[-1]) + 1)
            if not self._counts(layer, seen):
                ignored_boxes.append(box)
                ignored_labels.append(layer.item.label)
                continue
            boxes.append(box)
            occlusion.append(1 - np.count_nonzero(seen) / layer.area)
            counted.append(layer)
            owner[rows, columns][seen] = len(counted)
        keypoints = [_keypoints(layer.item, owner, number) for number, layer in enumerate(counted, 1)]
        return SceneTruth(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array([layer.item.label for layer in counted], np.int32),
            keypoints=np.array(keypoints, np.float32).reshape(-1, NUM_KEYPOINTS, 3),
            occlusion=np.array(occlusion, np.float32),
            sizes=np.array([layer.extent / min(self._size) for layer in counted], np.float32),
            identities=np.array([layer.item.identity for layer in counted], np.int32),
            owner=owner,
            ignored_boxes=np.array(ignored_boxes, np.float32).reshape(-1, 4),
            ignored_labels=np.array(ignored_labels, np.int32),
        )


def _overlap(first: Layer, second: Layer) -> bool:
    a, b = first.solid.shape, second.solid.shape
    across: bool = first.left < second.left + b[1] and second.left < first.left + a[1]
    return across and first.top < second.top + b[0] and second.top < first.top + a[0]


def _keypoints(item: Item, owner: Image, number: int) -> Plane:
    """[5, 3] x, y, and 2 visible, 1 hidden by its own or another solid, 0 outside."""
    c, s = np.cos(item.angle), np.sin(item.angle)
    # A ball's keypoints are the extremes of its outline in the picture, so they do not turn with it.
    turn = np.eye(2) if item.sprite.kind == "ball" else np.array([[c, -s], [s, c]])
    points = item.sprite.keypoints[:, :2] @ turn.T * item.scale + (item.x, item.y)
    height, width = owner.shape
    result = np.zeros((len(points), 3), np.float32)
    for index, (x, y) in enumerate(points.tolist()):
        if 0 <= x < width and 0 <= y < height:
            row, column = int(y), int(x)
            # Of a keypoint on the outline, half the pixels around it are another's: one of the nine is enough.
            near = owner[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            seen = item.sprite.keypoints[index, 2] > 0 and number in near
            result[index] = (x, y, 2 if seen else 1)
    return result
