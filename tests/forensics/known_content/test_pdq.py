"""The PDQ hash is the reference's, also from a smaller copy, and stays alike when a picture is changed a little."""

import cv2
import numpy as np
import pdqhash
import pytest

from veridict.forensics.decode import decode_image
from veridict.forensics.known_content.pdq import NO_HASH, hash_pixels
from veridict.forensics.preprocess import prepare, shrink_for_views

SIZES = [(5, 5), (7, 300), (63, 65), (64, 64), (127, 129), (128, 128), (333, 500), (512, 341), (1000, 40)]


def reference(pixels):
    bits, quality = pdqhash.compute(np.ascontiguousarray(pixels))
    return np.packbits(bits.astype(np.uint8)).tobytes().hex(), quality


def distance(one, other):
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("size", SIZES)
def test_the_hash_is_the_references(size, astronaut):
    pixels = cv2.resize(astronaut, size, interpolation=cv2.INTER_AREA)
    found, (expected, quality) = hash_pixels(pixels), reference(pixels)
    # Where the reference rounds a coefficient to the median from the other side, a bit may differ.
    assert distance(found.hex, expected) <= 2
    assert found.quality == quality


@pytest.mark.parametrize("size", [(1920, 1275), (1023, 1999), (2500, 1875), (640, 480), (512, 512)])
@pytest.mark.parametrize("name", ["astronaut", "cat", "coffee"])
def test_a_hash_of_the_copy_is_near_that_of_all_pixels(size, name, request):
    full = cv2.resize(request.getfixturevalue(name), size, interpolation=cv2.INTER_CUBIC)
    copy = shrink_for_views(full if max(size) < 1920 else cv2.resize(full, None, fx=0.5, fy=0.5, interpolation=3))
    found, (expected, quality) = hash_pixels(copy, size), reference(full)
    assert distance(found.hex, expected) <= 10  # the reference's own bound for another implementation
    assert abs(found.quality - quality) <= 2


def test_the_hash_is_that_of_the_picture_that_is_shown(encode, cat):
    turned = encode(np.ascontiguousarray(np.rot90(cat)), quality=95, exif=b"Exif\0\0" + orientation(6))
    assert distance(prepare(turned).observation.pdq, hash_pixels(cat).hex) <= 10
    assert distance(hash_pixels(np.ascontiguousarray(np.rot90(cat))).hex, hash_pixels(cat).hex) > 60


def orientation(number):
    return b"II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([number, 0, 0, 0]) + b"\0\0\0\0"


def test_a_picture_that_was_compressed_and_resized_again_is_near(encode, coffee):
    small = cv2.resize(coffee, (300, 200), interpolation=cv2.INTER_AREA)
    again = decode_image(encode(small, quality=40)).pixels
    assert distance(hash_pixels(again).hex, hash_pixels(coffee).hex) <= 20


def test_featureless_and_tiny_pictures_have_no_quality():
    assert hash_pixels(np.full((300, 200, 3), 128, np.uint8)).quality == 0
    noise = np.random.default_rng(0).integers(0, 256, (4, 400, 3), dtype=np.uint8)
    assert hash_pixels(noise) == hash_pixels(noise, (400, 4))
    assert (hash_pixels(noise).hex, hash_pixels(noise).quality) == (NO_HASH, 0)


def test_preparing_an_image_hashes_it(encode, astronaut):
    seen = prepare(encode(astronaut, "PNG")).observation
    assert (seen.pdq, seen.pdq_quality) == (hash_pixels(astronaut).hex, 100)
    assert seen.timings_ms["hash"] >= 0
