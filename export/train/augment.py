"""Augmentations that keep a network from telling sources apart by size, format, quality, tone or framing.

All functions work on uint8 RGB arrays [H, W, 3] and take a ``numpy.random.Generator``, so a sample is a pure function
of (seed, epoch, index).
"""

from __future__ import annotations

import cv2
import numpy as np

from veridict.forensics.arrays import Float32Array, Pixels

_INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


def resize(image: Pixels, width: int, height: int, interpolation: int | None = None) -> Pixels:
    """Resize to ``width`` x ``height``; by default area averaging down and cubic up, as the server does."""
    if interpolation is None:
        interpolation = cv2.INTER_AREA if width * height < image.shape[0] * image.shape[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), dtype=np.uint8)


def recompress(image: Pixels, quality: int, subsampling_420: bool = True) -> Pixels:
    """Return the image after one JPEG round trip at ``quality`` (1..100)."""
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampling_420 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], flags)[1]
    return np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[:, :, ::-1], dtype=np.uint8)


def random_crop(image: Pixels, rng: np.random.Generator, smallest: float) -> Pixels:
    """Return a random rectangle that keeps ``smallest``..1 of each side and the aspect ratio within 10%."""
    height, width = image.shape[:2]
    keep = rng.uniform(smallest, 1.0)
    h = max(8, int(height * keep))
    w = max(8, int(min(width, width * keep * rng.uniform(0.9, 1.1))))
    y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    return image[y : y + h, x : x + w]


def colour_jitter(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Change gain, offset, gamma and saturation, or drop the colour altogether."""
    x = image.astype(np.float32) / 255.0
    x = np.clip(x * rng.uniform(0.75, 1.25) + rng.uniform(-0.08, 0.08), 0, 1) ** rng.uniform(0.75, 1.35)
    grey = x.mean(axis=2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.12 else rng.uniform(0.5, 1.5)
    x = grey + (x - grey) * saturation * np.array([rng.uniform(0.94, 1.06) for _ in range(3)], np.float32)
    return (np.clip(x, 0, 1) * 255.0 + 0.5).astype(np.uint8)


def degrade(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Apply changes of upload platforms and phones, each with some probability: rescale, blur, noise, recompress."""
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        scale = rng.uniform(0.4, 0.95)
        down = int(rng.choice(_INTERPOLATIONS))
        image = resize(image, max(32, int(width * scale)), max(32, int(height * scale)), down)
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2)), dtype=np.uint8)
    if rng.random() < 0.15:
        noise = rng.normal(0, rng.uniform(1, 6), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        image = recompress(image, int(rng.integers(40, 96)), bool(rng.random() < 0.7))
    return image


def soft_region(height: int, width: int, rng: np.random.Generator) -> Float32Array:
    """Return a soft mask [H, W] in 0..1: a randomly deformed ellipse about the centre, blurred at its edge."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radii = rng.uniform(0.75, 1.15, angles.size)
    cx, cy = width * rng.uniform(0.44, 0.56), height * rng.uniform(0.44, 0.6)
    rx, ry = width * rng.uniform(0.2, 0.34), height * rng.uniform(0.24, 0.42)
    points = np.stack([cx + rx * radii * np.cos(angles), cy + ry * radii * np.sin(angles)], axis=1)
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [points.astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.8, width * rng.uniform(0.005, 0.04))), dtype=np.float32)


def self_blend(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a self-blended image: the image pasted onto itself after a slight change, through a soft mask.

    The blend has the marks of a face swap (a seam, two noise statistics, two sharpnesses) and no generator's own trace.
    Source: Shiohara & Yamasaki 2022, here with a random central region instead of face landmarks.
    """
    height, width = image.shape[:2]
    changed = colour_jitter(image, rng) if rng.random() < 0.6 else image
    if rng.random() < 0.6:
        factor = rng.uniform(0.3, 0.8)
        small = resize(changed, max(24, int(width * factor)), max(24, int(height * factor)))
        changed = resize(small, width, height, int(rng.choice(_INTERPOLATIONS[1:])))
    elif rng.random() < 0.5:
        changed = recompress(changed, int(rng.integers(30, 80)))
    dx, dy, scale = rng.uniform(-0.03, 0.03) * width, rng.uniform(-0.03, 0.03) * height, rng.uniform(0.97, 1.04)
    shift = np.array([[scale, 0, dx], [0, scale, dy]], np.float32)
    changed = cv2.warpAffine(changed, shift, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    mask = soft_region(height, width, rng)[:, :, None] * rng.choice([1.0, 1.0, 0.75, 0.5])
    return np.asarray(changed * mask + image * (1.0 - mask) + 0.5, dtype=np.uint8)


def augment_face(image: Pixels, rng: np.random.Generator, view: int, crop: int) -> Pixels:
    """Return a training view [crop, crop, 3]: framing, degradation, then a random window of the resized face.

    A window of the served ``view`` x ``view`` pixels has the scale that the network is served with.
    """
    if rng.random() < 0.5:
        image = image[:, ::-1]
    if rng.random() < 0.6:
        image = random_crop(image, rng, 0.65)
    image = np.ascontiguousarray(image)
    if rng.random() < 0.65:
        image = degrade(image, rng)
        if rng.random() < 0.4:
            image = colour_jitter(image, rng)
    image = resize(image, view, view, int(rng.choice(_INTERPOLATIONS[:3])) if rng.random() < 0.4 else None)
    y, x = rng.integers(0, view - crop + 1, size=2)
    return image[y : y + crop, x : x + crop]


def paste_region(image: Pixels, other: Pixels, rng: np.random.Generator) -> tuple[Pixels, Float32Array]:
    """Paste a region of ``other`` into ``image`` (same shape [H, W, 3]); return it and the mask [H, W] in 0..1.

    The region is a rectangle or a soft ellipse that covers a tenth to nine tenths of the image. Half of the results are
    recompressed as a whole, so that the network cannot rely on a seam between two compression histories. Source: CutMix
    (Yun et al. 2019), with local labels (Chai et al. 2020, "What makes fake images detectable?").
    """
    height, width = image.shape[:2]
    if rng.random() < 0.3:
        mask = soft_region(height, width, rng)
    else:
        share = np.sqrt(rng.uniform(0.1, 0.9))
        stretch = rng.uniform(0.7, 1.4)
        h, w = (max(16, int(min(1.0, share * f) * side)) for f, side in ((stretch, height), (1 / stretch, width)))
        y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        mask = np.zeros((height, width), np.float32)
        mask[y : y + h, x : x + w] = 1.0
    soft = mask[:, :, None]
    mixed = (other * soft + image * (1.0 - soft) + 0.5).astype(np.uint8)
    if rng.random() < 0.5:
        mixed = recompress(mixed, int(rng.integers(60, 96)), bool(rng.random() < 0.7))
    return mixed, mask
