"""The quality tiers of evaluation and calibration: what platforms do to a file before it arrives."""

from __future__ import annotations

import io

#: Tier -> (longest side at most, JPEG quality); None leaves the bytes as they are.
TIERS: dict[str, tuple[int, int] | None] = {"clean": None, "web": (768, 60), "hard": (512, 40)}
#: Formats that the service takes; the data sets hold others.
ACCEPTED = {"JPEG", "MPO", "PNG", "WEBP"}


def apply_tier(data: bytes, tier: str) -> bytes:
    """Return the file as a platform of that tier would deliver it; a format the service refuses (AVIF) becomes PNG."""
    from PIL import Image, ImageOps

    setting = TIERS[tier]
    with Image.open(io.BytesIO(data)) as image:
        if setting is None and image.format in ACCEPTED:
            return data
        upright = ImageOps.exif_transpose(image).convert("RGB")
    if setting is None:
        buffer = io.BytesIO()
        upright.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    upright.thumbnail((setting[0], setting[0]), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=setting[1])
    return buffer.getvalue()
