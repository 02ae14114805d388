"""Maps as images: the overlay, and a figure with colour bar and legend.

Every map is drawn to the same scale of -1..1 (signed) or 0..1: its own 99th percentile of magnitude is 1, because the
methods' units differ. The end of the colour bar says what 1 stands for.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np

from veridict.forensics.arrays import Float32Array, Pixels

from ..attribution import Attribution, Kind
from ..methods import get_method
from .colours import colour_table, ends

#: Percentile of magnitude that gets full colour: one extreme pixel must not leave the rest pale.
PERCENTILE = 99.0
#: Gaussian blur, in pixels, of the maps that are smoothed before they are drawn. Stored values are never smoothed.
SMOOTHING = 3.0
_FIGURE = 520


@dataclass(frozen=True)
class Scaled:
    """A map ready to be drawn: values in -1..1 (signed) or 0..1, and what 1 stands for in the map's unit."""

    values: Float32Array
    full_scale: float


def smooth(result: Attribution) -> Float32Array:
    """Return the values float32 [H, W] as they are drawn: blurred if the registry marks the method as ``smoothed``."""
    if not get_method(result.method).smoothed:
        return result.values
    return np.asarray(cv2.GaussianBlur(result.values, (0, 0), SMOOTHING), dtype=np.float32)


def scale(result: Attribution) -> Scaled:
    """Return the map on the common scale; a map of zeros stays zero."""
    values = smooth(result)
    full = float(np.percentile(np.abs(values), PERCENTILE))
    if full <= 0.0:
        full = float(np.abs(values).max()) or 1.0
    low = -1.0 if result.kind == "signed" else 0.0
    return Scaled(np.clip(values / full, low, 1.0).astype(np.float32), full)


def colourise(scaled: Scaled, kind: Kind) -> Pixels:
    """Return the map alone as RGB uint8 [H, W, 3]."""
    share = (scaled.values + 1.0) / 2.0 if kind == "signed" else scaled.values
    return np.asarray(colour_table(kind)[np.rint(share * 255).astype(np.intp)], dtype=np.uint8)


def cut_region(pixels: Pixels, region: tuple[int, int, int, int], side: int = _FIGURE) -> Pixels:
    """Return the part of the image that a map covers, resized to a longest side of ``side`` pixels."""
    x, y, width, height = region
    part = pixels[y : y + height, x : x + width]
    factor = side / max(width, height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(
        cv2.resize(part, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC), dtype=np.uint8
    )


def overlay(result: Attribution, pixels: Pixels, side: int = _FIGURE) -> Pixels:
    """Return the map over the grey image, RGB uint8, longest side ``side``.

    Signed maps are transparent where their values are near zero. Measurements are shown without the image, since it
    would hide their pattern.
    """
    scaled = scale(result)
    base = cut_region(pixels, result.region, side)
    size = (base.shape[1], base.shape[0])
    coloured = cv2.resize(colourise(scaled, result.kind), size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    if result.kind == "measurement":
        return np.asarray(coloured, dtype=np.uint8)
    grey = cv2.cvtColor(base, cv2.COLOR_RGB2GRAY).astype(np.float32)[:, :, None]
    strength = cv2.resize(np.abs(scaled.values), size, interpolation=cv2.INTER_LINEAR)[:, :, None]
    alpha = np.full_like(strength, 0.65) if result.kind == "strength" else 0.15 + 0.7 * np.sqrt(strength)
    light = 70 + grey * 0.7  # on a paler image dark red and dark blue stay readable over dark hair
    return np.asarray(np.clip(light * (1 - alpha) + coloured * alpha, 0, 255), dtype=np.uint8)


def render_figure(result: Attribution, pixels: Pixels) -> bytes:
    """Return a PNG: the explained part of the image, its overlay, the title, a colour bar and a legend.

    ``pixels`` is the whole upright image, uint8 [H, W, 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    method = get_method(result.method)
    original, over = cut_region(pixels, result.region), overlay(result, pixels)
    height, width = over.shape[:2]
    margin, gap, top = 20, 16, 52
    total = max(2 * width + gap, 700) + 2 * margin
    canvas = Image.new("RGB", (total, top + height + 118), "white")
    draw = ImageDraw.Draw(canvas)
    title, text = ImageFont.load_default(22), ImageFont.load_default(15)
    draw.text((margin, 14), method.title, fill="#1c2430", font=title)
    score = "" if result.score is None else f"explained output {result.score:+.2f} (positive means fake)"
    draw.text((total - margin, 20), score, fill="#5a6472", font=text, anchor="ra")
    canvas.paste(Image.fromarray(original), (margin, top))
    canvas.paste(Image.fromarray(over), (margin + width + gap, top))
    bar_top = top + height + 14
    bar = np.repeat(colour_table(result.kind)[None], 14, axis=0)
    canvas.paste(Image.fromarray(bar).resize((total - 2 * margin, 14)), (margin, bar_top))
    full = f"{scale(result).full_scale:.3g}"
    low = f"-{full}" if result.kind == "signed" else "0"
    words = ends(result.kind)
    draw.text((margin, bar_top + 20), f"{low}  {words[0]}", fill="#1c2430", font=text)
    draw.text((total - margin, bar_top + 20), f"{words[1]}  {full}", fill="#1c2430", font=text, anchor="ra")
    draw.text((total // 2, bar_top + 20), result.unit, fill="#5a6472", font=text, anchor="ma")
    draw.text((margin, bar_top + 50), _fit(draw, method.caption, text, total - 2 * margin), fill="#5a6472", font=text)
    draw.text((margin, bar_top + 74), quality_text(result), fill="#5a6472", font=text)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _fit(draw: object, sentence: str, font: object, width: int) -> str:
    """Return the sentence; one wider than ``width`` pixels is cut after a word and ends in an ellipsis."""
    words = sentence.split()
    while len(words) > 1 and draw.textlength(" ".join(words), font=font) > width:  # type: ignore[attr-defined]
        words = [*words[:-2], words[-2].rstrip(".,;:") + " ..."] if words[-1] != "..." else words[:-1]
    return " ".join(words)


def quality_text(result: Attribution) -> str:
    """Return the method's first four quality figures and its seconds in one line."""
    shown = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in result.quality.items()]
    return ", ".join([*shown[:4], f"{result.seconds:.1f} s"])
