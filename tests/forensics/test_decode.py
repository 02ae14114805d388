"""Decoding: accepted files give the right pixels; other files are refused with the right code before decoding."""

import contextlib
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from veridict.forensics.decode import Limits, decode_image
from veridict.forensics.errors import CODES, ImageError


def code_of(data, **limits):
    with pytest.raises(ImageError) as caught:
        decode_image(data, Limits(**limits))
    assert caught.value.code in CODES
    assert str(caught.value).startswith(f"[{caught.value.code}] ")
    return caught.value.code


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_accepted_formats_decode_to_rgb(encode, cat, form):
    image = decode_image(encode(cat, form))
    assert (image.format, image.width, image.height) == (form, cat.shape[1], cat.shape[0])
    assert image.pixels.dtype == np.uint8
    assert np.abs(image.pixels.astype(int) - cat.astype(int)).mean() < 6


def test_grey_progressive_and_444_jpeg(encode, cat):
    for options in ({"mode": "L"}, {"progressive": True}, {"subsampling": 0}):
        assert decode_image(encode(cat, "JPEG", **options)).pixels.shape == cat.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(encode, cat, orientation):
    image = Image.fromarray(cat)
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=95)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    actual = decode_image(buffer.getvalue()).pixels
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected.astype(int)).mean() < 1.5


def test_cmyk_jpeg_keeps_its_colours(encode, cat):
    image = decode_image(encode(cat, "JPEG", mode="CMYK", quality=95))
    assert np.abs(image.pixels.astype(int) - cat.astype(int)).mean() < 6


def test_sixteen_bit_png_is_scaled_not_clipped(cat):
    grey = cat[:, :, 0].astype(np.uint16) * 257
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    assert np.array_equal(decode_image(buffer.getvalue()).pixels[:, :, 1], cat[:, :, 0])


def test_transparent_images_are_composited_on_white(encode):
    pixels = np.zeros((70, 80, 4), np.uint8)
    assert (decode_image(encode(pixels, "PNG")).pixels == 255).all()


def test_palette_with_alpha(encode, cat):
    image = Image.fromarray(cat).convert("P")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    assert decode_image(buffer.getvalue()).pixels.shape == cat.shape


def test_animated_webp_gives_its_first_frame_within_the_frame_limit(cat, coffee):
    frames = [Image.fromarray(x).resize((96, 96)) for x in (cat, coffee, cat)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    image = decode_image(buffer.getvalue())
    assert image.frames == 3
    assert np.array_equal(image.pixels, np.asarray(frames[0]))
    assert code_of(buffer.getvalue(), max_frames=2) == "image.too_many_frames"


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_by_name(encode, cat, form):
    with pytest.raises(ImageError, match=form) as caught:
        decode_image(encode(cat, form))
    assert caught.value.code == "image.unsupported_format"


@pytest.mark.parametrize(
    "data", [b"hello, this is text", b"<svg xmlns='x'/>", b"\0\0\0\x18ftypheic\0\0\0\0", b"\0" * 100, b"\xff\xd8"]
)
def test_files_that_are_no_images_are_refused(data):
    assert code_of(data) in ("image.unsupported_format", "image.corrupt")


def test_empty():
    assert code_of(b"") == "image.empty"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.02, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_are_refused(encode, cat, form, part):
    data = encode(cat, form)
    assert code_of(data[: int(len(data) * part)]) in ("image.truncated", "image.corrupt")


@pytest.mark.parametrize(("width", "repeated"), [(1919, False), (1920, True)])
def test_chroma_is_repeated_only_in_images_that_are_halved_before_their_colours_are_read(encode, cat, width, repeated):
    data = encode(cv2.resize(cat, (width, 700), interpolation=cv2.INTER_CUBIC))
    image = decode_image(data)
    assert np.array_equal(image.pixels, simplejpeg.decode_jpeg(data, fastupsample=repeated))
    assert max(image.preview.shape) == (960 if repeated else width)


def test_the_luma_of_a_region_is_that_of_its_pixels(encode, cat):
    image = decode_image(encode(cat))
    expected = cv2.cvtColor(image.pixels, cv2.COLOR_RGB2GRAY)[24:80, 16:100]
    assert np.array_equal(image.stored_luma((16, 24, 84, 56)), expected)


@pytest.mark.parametrize("orientation", [1, 6])
def test_elongated_files_keep_their_size(encode, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    for rows, columns in ((1, 5000), (5000, 1), (40, 9000)):
        image = decode_image(encode(np.zeros((rows, columns, 3), np.uint8), exif=exif))
        assert image.pixels.shape == (image.height, image.width, 3)
        assert (image.height, image.width) == ((columns, rows) if orientation == 6 else (rows, columns))


def test_limits_come_from_the_header(encode, cat):
    assert code_of(png_header(65535, 65535)) == "image.too_many_pixels"
    assert code_of(encode(cat), max_pixels=1000) == "image.too_many_pixels"
    assert code_of(encode(cat), max_bytes=1000) == "image.too_large"


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (0, 0)])
def test_an_image_without_area_is_corrupt(size):
    assert code_of(png_header(*size)) == "image.corrupt"


def test_random_damage_never_escapes_the_error_type(encode, cat):
    rng = np.random.default_rng(3)
    for form in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(encode(cat, form), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[rng.integers(0, len(damaged), 12)] = rng.integers(0, 256, 12)
            with contextlib.suppress(ImageError):  # anything else fails the test
                decode_image(damaged.tobytes())


def test_an_image_with_damaged_exif_and_readable_pixels_is_accepted(encode, cat):
    data = encode(cat, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_image(data).width == cat.shape[1]
