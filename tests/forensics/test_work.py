"""The guess how much work an image will be."""

import numpy as np
import pytest

from veridict.forensics.containers import JPEG_MAGIC, PNG_MAGIC
from veridict.forensics.work import estimate_seconds
from veridict.loadtests.hostile.jpeg_coding import many_scans


def test_common_uploads_are_quick(encode, astronaut):
    for form, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})):
        assert 0 < estimate_seconds(encode(astronaut, form, **options)) < 0.02
    photograph = np.zeros((3000, 4000, 3), np.uint8)
    assert estimate_seconds(encode(photograph, "JPEG")) < 0.1


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"progressive": True}),
        ("JPEG", {"mode": "CMYK"}),
        ("PNG", {"mode": "RGBA", "compress_level": 1}),
        ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
    ],
)
def test_large_images_of_costly_kinds_are_slow(encode, form, options):
    assert estimate_seconds(encode(np.zeros((4000, 4000, 3), np.uint8), form, **options)) > 0.25


def test_every_scan_of_a_jpeg_counts():
    few, many, too_many = (estimate_seconds(many_scans(1400, 1400, scans)) for scans in (10, 400, 600))
    assert few < 0.1 < 0.7 < many
    assert too_many == 0  # refused at once


def test_metadata_do_not_hide_the_size(encode, cat):
    plain = encode(cat)
    data = plain[:2] + b"\xff\xe1\xff\xff" + b"\0" * 65533 + plain[2:]
    assert estimate_seconds(data) == pytest.approx(estimate_seconds(plain), abs=0.001)


def test_a_jpeg_that_is_not_understood_at_once_is_slow():
    assert estimate_seconds(JPEG_MAGIC + b"\xe1\0\2" + b"garbage" * 10) > 0.25
    assert estimate_seconds(JPEG_MAGIC) > 0.25


def test_what_is_refused_at_once_is_quick(encode):
    too_large = bytearray(encode(np.zeros((8, 8, 3), np.uint8), "PNG"))
    too_large[16:24] = b"\0\1\0\0" * 2
    webp = b"RIFF\0\0\0\0WEBP"
    for data in (b"", b"GIF89a", PNG_MAGIC, webp, webp + b"what" + b"\1" * 30, bytes(too_large)):
        assert estimate_seconds(data) < 0.001


def test_no_bytes_break_the_guess(encode, cat):
    rng = np.random.default_rng(5)
    for form in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(encode(cat, form), np.uint8)
        for _ in range(200):
            damaged = whole[: rng.integers(1, 60)].copy()
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            assert estimate_seconds(damaged.tobytes()) >= 0
