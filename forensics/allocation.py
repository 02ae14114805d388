"""Freed memory: kept in the process between two images, given back after a network was loaded."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: More than any buffer of an accepted image: 50 million pixels of three bytes.
_BYTES = 256 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory up to 256 MiB per thread; return False where that cannot be set (no glibc).

    By default glibc returns large freed buffers to the kernel, and the kernel must provide every page anew for the next
    image: a tenth of the cost of preparing an image on two busy cores.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BYTES)) and bool(mallopt(_TRIM_THRESHOLD, 2 * _BYTES))


def release_freed_memory() -> bool:
    """Give freed memory back to the kernel; return whether some was, False where that cannot be done (no glibc).

    ONNX Runtime needs 1.5 GB to load the image encoder in 8-bit integers and leaves 1.3 GB of it free in the heap.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return False
    return bool(trim(0))
