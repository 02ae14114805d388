"""The picture viewer: zoom to native pixels, boxes of faces, a map over the picture, and two pictures side by side.

The viewer is a component of Streamlit (``viewer.js``, ``viewer.css``). It gets one message of bytes: the length of a
JSON header (4 bytes, little endian), the header, and the encoded images, which the header refers to by their offsets.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class FaceBox:
    """A box [x, y, width, height] in pixels of the upright image, the text beside it, and what screen readers say."""

    box: tuple[int, int, int, int]
    label: str
    spoken: str


@dataclass(frozen=True)
class Picture:
    """One picture: its encoded bytes, upright size in pixels, alternative text, boxes, and a map that lies over it.

    ``opacity`` of the map: 0..1.
    """

    data: bytes
    width: int
    height: int
    alt: str
    faces: tuple[FaceBox, ...] = ()
    layer: bytes = b""
    layer_alt: str = ""
    opacity: float = 1.0


def pack(pictures: Sequence[Picture]) -> bytes:
    """Return the message for the viewer."""
    blobs: list[bytes] = []

    def refer(data: bytes) -> list[int]:
        start = sum(map(len, blobs))
        blobs.append(data)
        return [start, len(data)]

    header = [
        {
            "image": refer(picture.data),
            "width": picture.width,
            "height": picture.height,
            "alt": picture.alt,
            "faces": [vars(face) for face in picture.faces],
            "layer": refer(picture.layer) if picture.layer else None,
            "layerAlt": picture.layer_alt,
            "opacity": picture.opacity,
        }
        for picture in pictures
    ]
    text = json.dumps(header).encode()
    return b"".join([struct.pack("<I", len(text)), text, *blobs])


@cache
def _component() -> Any:
    import streamlit as st

    html = '<div class="viewer"></div>'
    css, js = ((_HERE / f"viewer.{name}").read_text() for name in ("css", "js"))
    return st.components.v2.component("veridict_viewer", html=html, css=css, js=js)


def show(pictures: Sequence[Picture], key: str) -> None:
    """Show one picture, or two side by side, at the present place of the page."""
    _component()(key=key, data=pack(pictures))
