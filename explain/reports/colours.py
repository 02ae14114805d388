"""The colours of maps, and what they mean.

Signed maps run from blue (speaks for real) over white to red (speaks for fake). This is ColorBrewer's RdBu scale, which
people with any common colour blindness can tell apart. Strengths and measurements use viridis, which gets steadily
lighter.
"""

from __future__ import annotations

import cv2
import numpy as np

from veridict.forensics.arrays import Pixels

from ..attribution import Kind

_RED_BLUE = (
    (33, 102, 172),
    (103, 169, 207),
    (209, 229, 240),
    (247, 247, 247),
    (253, 219, 199),
    (239, 138, 98),
    (178, 24, 43),
)


def colour_table(kind: Kind) -> Pixels:
    """Return the 256 RGB colours [256, 3] of a kind of map, from its lowest to its highest value."""
    if kind != "signed":
        levels = np.arange(256, dtype=np.uint8)[:, None]
        return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1], dtype=np.uint8)
    anchors = np.array(_RED_BLUE, dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, range(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def css_stops(kind: Kind) -> str:
    """Return the colour stops of a CSS ``linear-gradient``, from the lowest to the highest value."""
    return ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colour_table(kind)[::15])


def ends(kind: Kind) -> tuple[str, str]:
    """Return in words what the low end and the high end of a map's colours mean."""
    if kind == "signed":
        return "blue: speaks for real", "red: speaks for fake"
    if kind == "strength":
        return "dark: does not matter", "yellow: matters most, either way"
    return "dark: low", "yellow: high"
