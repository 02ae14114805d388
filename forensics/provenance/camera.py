"""Camera data against the file that carries them: maker notes, size, thumbnail and quantisation table.

Camera data never acquit: they are copied from file to file at no cost. That they belong to another picture is worth
knowing.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from ..arrays import Float32Array, Pixels
from ..contract import CameraData, ProvenanceTrace
from ..pixels import Luma, to_luma
from .blocks import Blocks
from .exif_tags import ExifTags
from .generators import clip

#: Both pictures are compared at this size. Thumbnails are sharpened and compressed, so details say nothing.
_COMPARED = (24, 24)
#: Correlation of grey levels below which a thumbnail shows another picture. Of 1,175 photographs, all had at least 0.61
#: with their own thumbnail of 160 pixels and JPEG quality 70, also where it was 1.3 times as bright and as contrasty;
#: 99% had less with that of another one.
_SAME_PICTURE = 0.6
#: Thumbnails are often of another shape, with black bars, and pictures are cropped: then shapes differ by more.
_SAME_SHAPE = 0.04
#: Grey levels up to which a row or column of a thumbnail belongs to a bar.
_BLACK = 12.0
#: Below this standard deviation of grey levels there is nothing to compare.
_PLAIN = 4.0
_MOST_THUMBNAIL_PIXELS = 1 << 20
#: Characters of a maker's or model's name; generators write whole documents into these tags.
_LONGEST_NAME = 64
#: The luma table of JPEG (ITU-T T.81, table K.1) in zigzag order, which libjpeg scales by quality.
_STANDARD_LUMA = (
    "16 11 12 14 12 10 16 14 13 14 18 17 16 19 24 40 26 24 22 22 24 49 35 37 29 40 58 51 61 60 57 51 "
    "56 55 64 72 92 78 64 68 87 69 55 56 80 109 81 87 95 98 103 104 103 62 77 113 121 112 100 120 92 101 103 99"
)


def _libjpeg_table(quality: int) -> tuple[int, ...]:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(min(max((int(value) * scale + 50) // 100, 1), 255) for value in _STANDARD_LUMA.split())


#: The quality (1 to 100) of libjpeg by the luma table that it writes.
LIBJPEG_QUALITIES = {_libjpeg_table(quality): quality for quality in range(100, 0, -1)}


def name_camera(tags: ExifTags) -> str:
    """Return maker and model of the camera, or "" where the tags name none."""
    make, model = (tags.texts.get(name, "") for name in ("Make", "Model"))
    if max(len(make), len(model)) > _LONGEST_NAME or "{" in make + model:
        return ""
    return clip(model if model.lower().startswith(make.lower()) else f"{make} {model}")


def check_camera(
    blocks: Blocks, tags: ExifTags, preview: Pixels, size: tuple[int, int], edited: bool
) -> tuple[CameraData, list[ProvenanceTrace]]:
    """Return whether the camera data fit the file, and each thing that was looked at.

    ``preview`` [h, w, 3] uint8: a small copy of the upright picture. ``size``: its full width and height in pixels.
    ``edited``: the metadata name a generator or an editor.
    """
    camera = name_camera(tags)
    if not camera:
        return "", []
    traces = [("EXIF Make and Model", camera)]
    other = resaved = checked = False
    if tags.maker_note:
        traces.append(("EXIF MakerNote", f"{tags.maker_note} bytes"))
        checked = True
    if all(tags.size):
        same = sorted(tags.size) == sorted(size)
        traces.append(("EXIF size", f"{'{}x{}'.format(*tags.size)}, the picture has {'{}x{}'.format(*size)}"))
        resaved, checked = resaved or not same, True
    if blocks.luma_table in LIBJPEG_QUALITIES:
        # Cameras mostly have tables of their own; phones use libjpeg's too, so this alone contradicts nothing.
        traces.append(("JPEG quantisation", f"the table of libjpeg at quality {LIBJPEG_QUALITIES[blocks.luma_table]}"))
        resaved = True
    likeness = compare_thumbnail(tags.thumbnail, preview)
    if likeness is not None:
        other = likeness < _SAME_PICTURE
        words = "shows another picture" if other else "shows this picture"
        traces.append(("EXIF thumbnail", f"{words} (correlation {likeness:.2f})"))
        checked = True
    state: CameraData = "agrees" if checked else "bare"
    if resaved or edited:
        state = "resaved"
    if other:
        state = "contradicts"
    return state, [ProvenanceTrace("camera", field, value) for field, value in traces]


def compare_thumbnail(thumbnail: bytes, preview: Pixels) -> float | None:
    """Return the correlation (-1..1) of an EXIF thumbnail with the picture, turned as it fits best.

    None: there is no sound thumbnail, its shape is another one (the picture was cropped), or one of them is plain.
    """
    if not thumbnail:
        return None
    try:
        height, width = simplejpeg.decode_jpeg_header(thumbnail)[:2]
        if height * width > _MOST_THUMBNAIL_PIXELS:
            return None
        small = simplejpeg.decode_jpeg(thumbnail, colorspace="GRAY")[:, :, 0]
    except ValueError:
        return None
    small = _without_bars(small)
    shapes = sorted(small.shape), sorted(preview.shape[:2])
    (short, long), (least, most) = shapes
    if not short or abs(short / long - least / most) > _SAME_SHAPE:
        return None
    picture, shown = _standardise(to_luma(preview)), _standardise(small)
    if picture is None or shown is None:
        return None
    # The tag Orientation turns the picture, and some programs turn the pixels but not the thumbnail.
    return max(float((np.rot90(shown, turns) * picture).mean()) for turns in range(4))


def _without_bars(
    grey: Luma,
) -> Luma:
    """Return a thumbnail [h, w] without the black bars that fill its shape: at most a quarter of each side."""
    for _ in range(2):
        light = grey.mean(axis=1) > _BLACK
        most = len(light) // 4
        top = int(light.argmax())
        bottom = int(light[::-1].argmax())
        if light.any() and top <= most and bottom <= most:
            grey = grey[top : len(grey) - bottom]
        grey = grey.T
    return grey


def _standardise(grey: Luma) -> Float32Array | None:
    """Return grey levels [24, 24] of mean 0 and deviation 1; None where the picture is plain."""
    levels = cv2.resize(np.ascontiguousarray(grey), _COMPARED, interpolation=cv2.INTER_AREA).astype(np.float32)
    deviation = float(levels.std())
    return None if deviation < _PLAIN else (levels - levels.mean()) / deviation
