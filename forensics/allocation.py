"""Keeps the C library from giving memory back between two pictures."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: More than any buffer of a picture within the limits: 50 million pixels of three bytes.
_BYTES = 256 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory up to 256 MiB per thread; return False where that cannot be set (no glibc).

    By default glibc returns large buffers to the kernel when they are freed, and the next picture pays for every page
    of its own again: a tenth of what preparing a picture costs on two busy cores.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BYTES)) and bool(mallopt(_TRIM_THRESHOLD, 2 * _BYTES))
