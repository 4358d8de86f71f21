"""Lossless compression of codes by zstandard, level 1: Huffman codes and repeats.

Why this one and not a plain arithmetic coder is measured in docs/wire.md.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..pipeline.errors import ConfigError, FrameError
from .packing import Codes

if TYPE_CHECKING:
    from zstandard import ZstdCompressor, ZstdDecompressor

LEVEL = 1


class _Contexts(threading.local):
    """zstandard's contexts of one thread: they are large, and not to be used by two at once."""

    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise ConfigError(
                "a wire type with +zstd needs zstandard on every rank: pip install 'splitrail[entropy]'"
            ) from error
        self.compressor: ZstdCompressor = zstandard.ZstdCompressor(level=LEVEL)
        self.decompressor: ZstdDecompressor = zstandard.ZstdDecompressor()


def require_entropy_coder() -> None:
    """Raise ConfigError, with the remedy, where zstandard is not installed."""
    _context()


def compress(codes: Codes) -> Codes:
    """Codes of any shape, C-contiguous, one a byte, as flat bytes: at most n + n / 256 + 64 of them."""
    return np.frombuffer(_context().compressor.compress(codes.data), np.uint8)


def decompress(data: Codes, num: int) -> Codes:
    """The `num` codes that `compress` was given, flat. Raises FrameError for bytes that are not so many codes."""
    import zstandard

    try:
        if zstandard.frame_content_size(data.data) != num:
            raise FrameError(f"a compressed tensor does not hold the {num} codes of its shape")
        raw = _context().decompressor.decompress(data.data)
    except zstandard.ZstdError as error:
        raise FrameError(f"a compressed tensor of {data.size} bytes cannot be decompressed: {error}") from error
    return np.frombuffer(raw, np.uint8)


@cache
def _context() -> _Contexts:
    return _Contexts()
