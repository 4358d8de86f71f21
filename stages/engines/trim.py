"""Give memory that loading a graph has freed back to the operating system."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Ask glibc to return what is free on its heap; nothing happens with another C library.

    Loading parses, optimises and repacks the weights, and glibc keeps what that frees: 134 MB after ONNX Runtime has loaded
    the 96 MB backbone of a ResNet-50 DETR (measured).
    """
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
