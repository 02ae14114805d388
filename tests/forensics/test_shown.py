"""What is judged is what a viewer shows: orientation, colour profiles, the first shown frame; and work is bounded."""

import io
import runpy
import struct
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from veridict.explain.methods.error_level import error_levels
from veridict.forensics.decode import Limits, decode_image
from veridict.forensics.errors import ImageError
from veridict.forensics.measure import measure_error_level
from veridict.forensics.pixels import as_stored, upright
from veridict.forensics.signals import measure_image

files = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_files.py"))))


@pytest.mark.parametrize("value", range(1, 9))
def test_as_stored_is_the_inverse_of_upright(cat, value):
    assert np.array_equal(as_stored(upright(cat, value), value), cat)


@pytest.mark.parametrize("size", [(381, 509), (384, 512), (900, 1100)])
def test_error_level_does_not_depend_on_the_orientation(coffee, size):
    stored = np.asarray(Image.fromarray(coffee).resize(size[::-1]))
    plain = files.save(stored, "JPEG", quality=80)
    expected = measure_error_level(decode_image(plain)).value
    levels = error_levels(decode_image(plain))
    for value in range(1, 9):
        image = decode_image(files.with_segment(plain, files.segment(0xE1, files.orientation(value))))
        assert image.orientation == value
        assert measure_error_level(image).value == expected
        assert np.array_equal(as_stored(error_levels(image), value), levels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("entries", "turned"),
    [
        ([(274, 3, 1, 6)], True),
        ([(271, 4, 1, 0), (274, 3, 1, 8)], True),
        ([(274, 3, 1, 0)], False),
        ([(274, 3, 1, 9)], False),
        ([(274, 3, 2, 6)], False),
        ([(274, 4, 1, 6)], False),
        ([(274, 1, 1, 6)], False),
        ([(34665, 3, 1, 6)], False),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_orientation_is_one_short_of_ifd0(cat, form, entries, turned, order):
    data = files.save(cat, form, exif=files.exif(*entries, order=order))
    assert (decode_image(data).width == cat.shape[0]) == turned


def stored_under(pixels, profile):
    """Return the pixels that look like ``pixels`` under a profile."""
    srgb, own = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(pixels), srgb, own, outputMode="RGB"))


PROFILES = {
    "p3": files.profile(2.2, files.DISPLAY_P3),
    "linear": files.profile(1.0),
    "swapped": files.profile(2.2, files.SRGB[::-1]),
}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_colour_profiles_are_converted_to_srgb(cat, name, form):
    options = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[form]
    stored = stored_under(cat, PROFILES[name])
    image = decode_image(files.save(stored, form, icc_profile=PROFILES[name], **options))
    own = ImageCms.ImageCmsProfile(io.BytesIO(PROFILES[name]))
    coded = Image.fromarray(decode_image(files.save(stored, form, **options)).pixels)
    shown = np.asarray(ImageCms.profileToProfile(coded, own, ImageCms.createProfile("sRGB"), outputMode="RGB"))
    assert np.array_equal(image.pixels, shown)
    assert np.array_equal(image.preview, shown)
    assert np.abs(shown.astype(int) - stored).mean() > 2


def test_error_level_is_measured_before_colours_are_converted(cat):
    plain = files.save(cat, "JPEG", quality=80)
    tagged = files.save(cat, "JPEG", quality=80, icc_profile=PROFILES["linear"])
    plain_signals, signals = (measure_image(decode_image(data)) for data in (plain, tagged))
    assert signals["ela"] == plain_signals["ela"]
    assert signals["blur"] != plain_signals["blur"]


def test_large_images_are_converted_after_halving(coffee):
    large = np.asarray(Image.fromarray(coffee).resize((2400, 1600)))
    image = decode_image(files.save(large, "JPEG", icc_profile=PROFILES["p3"]))
    assert image.preview.shape == (800, 1200, 3)
    whole = np.asarray(Image.fromarray(image.pixels).reduce(2)).astype(int)
    assert np.abs(image.preview - whole).mean() < 1


def test_srgb_profiles_change_nothing(cat):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = decode_image(files.save(cat, "PNG", icc_profile=srgb))
    assert image.convert is None
    assert np.array_equal(image.pixels, cat)


def test_grey_profiles_are_converted_and_profiles_of_other_channels_ignored(cat):
    grey = cat[:, :, 0]
    image = decode_image(files.save(grey, "PNG", icc_profile=files.profile(1.0, None)))
    # The curve of sRGB takes linear 0.2 to 0.4845.
    assert abs(int(image.pixels[grey == 51][0, 0]) - 124) <= 1
    for pixels, profile in ((grey, PROFILES["linear"]), (cat, files.profile(1.0, None))):
        assert decode_image(files.save(pixels, "PNG", icc_profile=profile)).convert is None


def test_cmyk_profiles_are_ignored_where_they_are_not_cmyk(cat):
    image = Image.fromarray(cat).convert("CMYK")
    plain = decode_image(files.save(image, "JPEG")).pixels
    assert np.array_equal(decode_image(files.save(image, "JPEG", icc_profile=PROFILES["linear"])).pixels, plain)


def test_colours_are_converted_before_transparent_parts_become_white(cat):
    stored = np.dstack([stored_under(cat, PROFILES["linear"]), np.full(cat.shape[:2], 255, np.uint8)])
    stored[:100, :, 3] = 0
    stored[100:200, :, 3] = 128
    pixels = decode_image(files.save(stored, "PNG", icc_profile=PROFILES["linear"])).pixels
    assert (pixels[:100] == 255).all()
    blended = (cat[100:200].astype(int) * 128 + 255 * 127) // 255
    assert np.abs(pixels[100:200] - blended).mean() < 2
    assert np.abs(pixels[200:].astype(int) - cat[200:]).mean() < 2


def test_png_colour_chunks_count_like_the_profile_that_they_describe(cat):
    png = files.save(cat, "PNG")
    srgb = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    wide = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    gamma, chromaticities = files.chunk(b"gAMA", struct.pack(">I", 100_000)), files.chunk(b"cHRM", srgb)
    linear = decode_image(files.save(cat, "PNG", icc_profile=PROFILES["linear"])).pixels
    for part in (gamma + chromaticities, files.chunk(b"cICP", bytes((1, 8, 0, 1)))):
        shown = decode_image(files.with_chunk(png, part)).pixels
        assert np.abs(shown.astype(int) - linear).max() <= 2
    p3 = [
        decode_image(files.with_chunk(png, part)).pixels.astype(int)
        for part in (
            files.chunk(b"cICP", bytes((12, 13, 0, 1))),
            files.chunk(b"gAMA", struct.pack(">I", 45455)) + files.chunk(b"cHRM", wide),
        )
    ]
    assert np.abs(p3[0] - p3[1]).max() <= 1
    assert np.abs(p3[0] - cat).mean() > 1
    named = files.chunk(b"sRGB", b"\0") + gamma + chromaticities
    ordinary = files.chunk(b"gAMA", struct.pack(">I", 45455)) + chromaticities
    for part in (gamma, named, ordinary, files.chunk(b"cICP", bytes((1, 13, 0, 1)))):
        assert np.array_equal(decode_image(files.with_chunk(png, part)).pixels, cat)


@pytest.mark.parametrize("default", [False, True])
def test_the_frames_of_an_animation_are_those_that_are_shown(cat, coffee, default):
    shown = [Image.fromarray(pixels).resize((96, 80)) for pixels in (cat, coffee)]
    first = Image.new("RGB", (96, 80), "white") if default else shown[0]
    data = files.save(
        first, "PNG", save_all=True, append_images=shown if default else shown[1:], default_image=default, duration=9
    )
    image = decode_image(data)
    assert image.frames == 2
    assert np.array_equal(image.pixels, np.asarray(shown[0]))


@pytest.mark.parametrize(("size", "limit"), [((7000, 7000), 20), ((1000, 1000), 500), ((64, 64), 500)])
def test_jpegs_of_too_many_scans_are_refused_before_decoding(size, limit):
    data = files.many_scans(*size, limit + 100)
    started = time.perf_counter()
    with pytest.raises(ImageError, match=f"limit {limit} ") as caught:
        decode_image(data)
    assert caught.value.code == "image.too_many_scans"
    assert time.perf_counter() - started < 0.1


def test_scans_up_to_the_limit_are_decoded():
    assert decode_image(files.many_scans(64, 64, 490)).width == 64
    data = files.many_scans(64, 64, 20)
    assert decode_image(data, Limits(max_scans=21)).width == 64
    with pytest.raises(ImageError, match="too_many_scans"):
        decode_image(data, Limits(max_scans=20))


def test_scans_of_metadata_and_of_appended_images_do_not_count(cat):
    data = files.save(cat, "JPEG", progressive=True)
    thumbnail = files.segment(0xE1, b"\xff\xda" * 600)
    expected = decode_image(data).pixels
    for file in (files.with_segment(data, thumbnail), data + files.many_scans(64, 64, 900)):
        assert np.array_equal(decode_image(file).pixels, expected)


def test_files_of_endless_small_parts_are_refused_at_once(cat):
    jpeg = b"\xff\xd8" + files.segment(0xE5, b"") * 500_000
    png = files.with_chunk(files.save(cat, "PNG"), files.chunk(b"prIv", b"") * 150_000)
    for data in (jpeg, png):
        started = time.perf_counter()
        with pytest.raises(ImageError, match="more than"):
            decode_image(data)
        assert time.perf_counter() - started < 1
