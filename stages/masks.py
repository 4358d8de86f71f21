"""Instance masks as COCO's compressed run lengths: a few hundred bytes instead of an image each.

Source: Lin et al. 2014, and `maskApi.c` of https://github.com/cocodataset/cocoapi: runs of 0 and 1 in turn down the columns,
beginning with 0; from the fourth on the difference to the one before the last; five bits a character, the least first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..pipeline.packet import Array

_FIRST = 48
"""Character that stands for 0."""
_MORE = 0x20


@dataclass(frozen=True, slots=True)
class Masks:
    """The masks of one frame's detections."""

    size: tuple[int, int]
    """Height and width of the source image."""
    counts: tuple[bytes, ...]
    """Per detection, its compressed run lengths."""

    def __len__(self) -> int:
        return len(self.counts)

    def subset(self, indices: npt.NDArray[np.intp]) -> Masks:
        """Those with these numbers, in this order."""
        return Masks(self.size, tuple(self.counts[int(index)] for index in indices))

    def decode(self, index: int) -> npt.NDArray[np.bool_]:
        """One mask as bool [height, width]."""
        ends = np.cumsum(_uncompressed(self.counts[index]))
        flat = np.zeros(self.size[0] * self.size[1], np.bool_)
        for begin, end in zip(ends[0::2].tolist(), ends[1::2].tolist(), strict=False):
            flat[begin:end] = True
        mask: npt.NDArray[np.bool_] = flat.reshape(self.size[::-1]).T
        return mask

    def to_json(self, index: int) -> dict[str, object]:
        """One mask as COCO has it: `size` and `counts`."""
        return {"size": list(self.size), "counts": self.counts[index].decode("ascii")}

    def to_tensors(self) -> dict[str, Array]:
        """As tensors of a packet: all masks one after the other in `mask_rle`, where each ends, and the image's size."""
        return {
            "mask_rle": np.frombuffer(b"".join(self.counts), np.uint8),
            "mask_ends": np.cumsum([len(each) for each in self.counts], dtype=np.int32),
            "mask_size": np.array(self.size, np.int32),
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Array]) -> Masks:
        """The reverse of `to_tensors`."""
        text = tensors["mask_rle"].tobytes()
        ends = [0, *tensors["mask_ends"].tolist()]
        height, width = tensors["mask_size"].tolist()
        counts = tuple(text[begin:end] for begin, end in pairwise(ends))
        return Masks((int(height), int(width)), counts)


def encode_mask(part: npt.NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> bytes:
    """Compressed run lengths of a mask that is `part` [h, w] with its upper left pixel at `corner` (row, column) of an image of
    `size`, and nothing elsewhere. `part` lies inside the image."""
    edges = np.zeros((part.shape[1], part.shape[0] + 2), np.int8)
    edges[:, 1:-1] = part.T
    steps = np.diff(edges, axis=1)
    offset = (np.arange(part.shape[1]) + corner[1]) * size[0] + corner[0]
    borders = [(offset[columns] + rows) for columns, rows in (np.nonzero(steps == 1), np.nonzero(steps == -1))]
    turns = np.stack(borders, axis=1).reshape(-1)
    # A run down to the last row goes on in the first row of the next column: its end and the next beginning are one place.
    again = np.flatnonzero(turns[1:] == turns[:-1])
    turns = np.delete(turns, np.concatenate([again, again + 1]))
    counts = np.diff(turns, prepend=0, append=size[0] * size[1]).astype(np.int64)
    return _compressed(counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts)


def _compressed(counts: npt.NDArray[np.int64]) -> bytes:
    left = counts.copy()
    left[3:] -= counts[1:-2]
    columns = []
    active = np.ones(len(left), np.bool_)
    while active.any():
        low = left & 0x1F
        left = left >> 5
        more = active & np.where(low & 0x10, left != -1, left != 0)
        columns.append(np.where(active, low + np.where(more, _MORE, 0) + _FIRST, 0))
        active = more
    characters = np.stack(columns, axis=1)
    return characters[characters > 0].astype(np.uint8).tobytes()


def _uncompressed(text: bytes) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for character in text:
        low = character - _FIRST
        value |= (low & 0x1F) << shift
        shift += 5
        if low & _MORE:
            continue
        if low & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
