"""Image files assembled by hand, from the generator of hostile images."""

from veridict.loadtests.hostile.assemble import (
    DISPLAY_P3,
    SRGB,
    animation,
    chunk,
    exif,
    orientation,
    profile,
    save,
    segment,
    with_chunk,
    with_segment,
)
from veridict.loadtests.hostile.jpeg_coding import many_scans

__all__ = [
    "DISPLAY_P3",
    "SRGB",
    "animation",
    "chunk",
    "exif",
    "many_scans",
    "orientation",
    "profile",
    "save",
    "segment",
    "with_chunk",
    "with_segment",
]
