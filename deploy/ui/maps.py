"""Forensic maps of a decoded image with the settings that a reviewer chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from veridict.explain.reports.maps import FULL_SCALE, render_map
from veridict.forensics.arrays import Float32Array, Pixels
from veridict.forensics.decode import DecodedImage
from veridict.forensics.measure import ELA_QUALITY, error_level_map, noise_residual_map, to_working_size
from veridict.forensics.pixels import to_luma, upright

MapKind = Literal["ela", "noise", "sharpness"]
#: Longest side in pixels of a map that is sent to the browser.
_SIDE = 1280


@dataclass(frozen=True)
class MapRow:
    """One kind of map: its title, what it shows, its default window in pixels, and its full scale at a gain of 1."""

    title: str
    caption: str
    window: int
    full_scale: float


MAPS: dict[MapKind, MapRow] = {
    "ela": MapRow(
        "Error level",
        "What one more JPEG compression changes. Parts with another compression history stand out.",
        8,
        FULL_SCALE,
    ),
    "noise": MapRow("Noise", "The grain that neighbouring pixels do not explain. Pasted parts can differ.", 9, 12.0),
    "sharpness": MapRow(
        "Sharpness", "The local deviation of the Laplacian. Smoothed or resized parts are dark.", 15, 60.0
    ),
}


@dataclass(frozen=True)
class MapSettings:
    """What the sliders choose.

    ``quality``: JPEG quality (1 to 100) of ELA's compression. ``gain``: a gain of 2 halves the value of the brightest
    colour. ``window``: side in pixels of the squares that are averaged; 1 shows each pixel.
    """

    kind: MapKind
    quality: int = ELA_QUALITY
    gain: float = 1.0
    window: int = 8

    @property
    def full_scale(self) -> float:
        """Return the value in grey levels that has the brightest colour."""
        return MAPS[self.kind].full_scale / self.gain


class NotApplicableError(Exception):
    """The map does not apply to this file; the message is the reason."""


def measure_map(image: DecodedImage, settings: MapSettings) -> Float32Array:
    """Return the map [H, W] >= 0 in grey levels of the upright image; noise and sharpness at working size.

    Raises:
        NotApplicableError: an error level map of a file that is no JPEG.
    """
    window = (settings.window, settings.window)
    if settings.kind == "ela":
        if image.format != "JPEG":
            raise NotApplicableError(f"a {image.format} file carries no JPEG compression history")
        levels = error_level_map(to_luma(image.stored), settings.quality).astype(np.float32)
        return upright(np.asarray(cv2.blur(levels, window), dtype=np.float32), image.orientation)
    luma = to_working_size(to_luma(image.preview))
    if settings.kind == "noise":
        return np.asarray(cv2.blur(noise_residual_map(luma).astype(np.float32), window), dtype=np.float32)
    laplacian = cv2.Laplacian(luma, cv2.CV_32F)
    if settings.window == 1:
        return np.asarray(np.abs(laplacian), dtype=np.float32)
    mean = cv2.blur(laplacian, window)
    variance = cv2.blur(laplacian * laplacian, window) - mean * mean
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)), dtype=np.float32)


def map_png(image: DecodedImage, settings: MapSettings) -> bytes:
    """Return the map as a PNG in the colours of the reports, longest side at most 1280 pixels; raises as above."""
    values = measure_map(image, settings)
    shrink = min(1.0, _SIDE / max(values.shape))
    if shrink < 1.0:
        size = (max(1, round(values.shape[1] * shrink)), max(1, round(values.shape[0] * shrink)))
        values = np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    return encode_png(render_map(values, settings.full_scale))


def encode_png(pixels: Pixels) -> bytes:
    """Return RGB pixels [H, W, 3] as a PNG."""
    done, data = cv2.imencode(".png", pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done
    return bytes(data)


def preview_jpeg(image: DecodedImage, longest: int) -> bytes:
    """Return the upright image as a JPEG of quality 92, longest side at most ``longest`` pixels."""
    pixels = image.preview
    shrink = min(1.0, longest / max(pixels.shape[:2]))
    if shrink < 1.0:
        size = (max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    done, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return bytes(data)
