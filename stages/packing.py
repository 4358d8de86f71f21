"""Codes of fewer than 8 bits, packed without a gap.

    4 bits    byte i      code 2i | code 2i+1 << 4
    6 bits    byte 3i     code 4i | code 4i+1 << 6
              byte 3i+1   code 4i+1 >> 2 | code 4i+2 << 4
              byte 3i+2   code 4i+2 >> 4 | code 4i+3 << 2

n codes take ceil(n * bits / 8) bytes; the bits that are left over are 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]


def pack(codes: Codes, bits: int, out: Codes | None = None) -> Codes:
    """Flat `codes`, each below 2 ** `bits` (4, 6 or 8), as flat bytes; in `out` where it is given, of the right length.

    With 8 bits and no `out` the very array is returned.
    """
    if bits == 8:
        packed = codes
    elif bits == 4:
        packed = codes[0::2].copy()
        packed[: codes.size // 2] |= codes[1::2] << 4
    else:
        groups = np.zeros((-(-codes.size // 4), 4), np.uint8)
        groups.reshape(-1)[: codes.size] = codes
        first, second, third, fourth = groups.T
        triples = np.empty((len(groups), 3), np.uint8)
        np.bitwise_or(first, second << 6, out=triples[:, 0])
        np.bitwise_or(second >> 2, third << 4, out=triples[:, 1])
        np.bitwise_or(third >> 4, fourth << 2, out=triples[:, 2])
        packed = triples.reshape(-1)[: -(-codes.size * 6 // 8)]
    if out is None:
        return packed
    np.copyto(out, packed)
    return out


def unpack(packed: Codes, bits: int, num: int) -> Codes:
    """The first `num` codes of what `pack` returned, which must be there. With 8 bits the very array, cut."""
    if bits == 8:
        return packed[:num]
    if bits == 4:
        codes = np.empty((packed.size, 2), np.uint8)
        np.bitwise_and(packed, 0x0F, out=codes[:, 0])
        np.right_shift(packed, 4, out=codes[:, 1])
    else:
        triples = np.zeros((-(-packed.size // 3), 3), np.uint8)
        triples.reshape(-1)[: packed.size] = packed
        first, second, third = triples.T
        codes = np.empty((len(triples), 4), np.uint8)
        np.bitwise_and(first, 0x3F, out=codes[:, 0])
        np.bitwise_or(first >> 6, (second & 0x0F) << 2, out=codes[:, 1])
        np.bitwise_or(second >> 4, (third & 0x03) << 4, out=codes[:, 2])
        np.right_shift(third, 2, out=codes[:, 3])
    return codes.reshape(-1)[:num]
