"""Large JPEG files: their parts are what a whole decoding gives."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from veridict.forensics import large_jpeg
from veridict.forensics.decode import Whole, decode_image
from veridict.forensics.errors import ImageError
from veridict.forensics.faces import Box, crop_faces
from veridict.forensics.large_jpeg import LargeJpeg
from veridict.forensics.measure import measure
from veridict.forensics.pixels import cut
from veridict.forensics.preprocess import prepare
from veridict.forensics.resize import to_preview

WIDTH, HEIGHT = 3846, 1931  # no multiples of a block


@pytest.fixture(scope="module")
def scene(astronaut):
    pixels = cv2.resize(astronaut, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 4, pixels.shape)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def save(pixels, orientation=1, **options):
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


def regions_of(image):
    """Some regions, at the corners too."""
    rng = np.random.default_rng(1)
    regions = [(0, 0, 40, 30), (image.width - 33, image.height - 57, 33, 57)]
    for _ in range(3):
        x, y = int(rng.integers(0, image.width - 300)), int(rng.integers(0, image.height - 300))
        regions.append((x, y, int(rng.integers(1, 300)), int(rng.integers(1, 300))))
    return regions


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_are_the_pixels_of_a_whole_decoding_whichever_way_is_up(scene, orientation):
    image = decode_image(save(scene, orientation))
    assert isinstance(image.source, LargeJpeg)
    assert image.pixels.shape == (image.height, image.width, 3)
    for region in regions_of(image):
        (alone,) = image.source.windows([region], 10_000)
        assert np.array_equal(alone, cut(image.pixels, region))
    together = image.source.windows(regions_of(image), 10_000)
    assert all(np.array_equal(t, cut(image.pixels, r)) for t, r in zip(together, regions_of(image), strict=True))


@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"quality": 97}, {"keep_rgb": True}, {"restart_marker_rows": 2}],
    ids=str,
)
def test_windows_are_exact_for_other_kinds_of_file(scene, options):
    data = save(scene, **options)
    source, pixels = LargeJpeg(data, WIDTH, HEIGHT, 1), simplejpeg.decode_jpeg(data)
    for region in regions_of(decode_image(data)):
        assert np.array_equal(source.windows([region], 10_000)[0], cut(pixels, region))


@pytest.mark.parametrize("grey", [False, True])
def test_the_luma_is_the_files_own(scene, grey):
    data = save(scene[:, :, 1] if grey else scene)
    image = decode_image(data)
    luma = simplejpeg.decode_jpeg(data, colorspace="GRAY")[:, :, 0]
    for region in regions_of(image):
        assert np.array_equal(image.source.luma(region), cut(luma, region))
        # Computed from RGB it is rounded, and clipped where a colour is saturated.
        assert np.abs(Whole(image.pixels).luma(region).astype(int) - cut(luma, region)).mean() < 0.5


@pytest.mark.parametrize(("side", "expected"), [((3840, 2160), (540, 960)), ((7681, 801), (101, 961))])
def test_the_preview_is_a_quarter_or_an_eighth_and_looks_like_averages(scene, side, expected):
    image = decode_image(save(cv2.resize(scene, side, interpolation=cv2.INTER_AREA)))
    averaged = to_preview(image.pixels)
    assert image.preview.shape == (*expected, 3)
    rows, columns = averaged.shape[:2]
    assert np.abs(image.preview[:rows, :columns].astype(int) - averaged).mean() < 1.5


def test_the_measurements_are_nearly_those_of_a_whole_decoding(scene):
    image = decode_image(save(scene, quality=80))
    whole = decode_image(save(scene, quality=80, progressive=True))
    assert isinstance(whole.source, Whole)
    before, after = measure(whole), measure(image)
    for name, signal in after.items():
        assert signal.value == pytest.approx(before[name].value, rel=0.06), name


def test_faces_come_from_the_preview_where_it_has_the_pixels(scene):
    image = decode_image(save(scene))
    boxes = [Box(400, 100, 1000, 1000), Box(2000, 900, 200, 200)]
    whole = crop_faces(replace(image, source=Whole(decode_image(save(scene)).pixels)), boxes)
    crops = crop_faces(image, boxes)
    assert "pixels" not in image.source.__dict__  # not all of the file was decoded
    assert np.array_equal(crops[1], whole[1])
    assert np.abs(crops[0].astype(int) - whole[0]).mean() < 3


def test_a_large_portrait_is_prepared_without_decoding_all_of_it(scene, monkeypatch):
    monkeypatch.setattr(LargeJpeg, "pixels", property(lambda self: pytest.fail("decoded whole")))
    prepared = prepare(save(scene))
    assert len(prepared.boxes) == len(prepared.crops) == 1
    assert (prepared.image.width, prepared.image.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_formats_are_decoded_whole(encode, scene, form):
    assert isinstance(decode_image(encode(scene, form)).source, Whole)


def test_smaller_and_finer_files_are_decoded_whole(scene):
    assert isinstance(decode_image(save(scene[:, :3840])).source, LargeJpeg)
    assert isinstance(decode_image(save(scene[:, :3839])).source, Whole)
    assert isinstance(decode_image(save(scene, quality=97)).source, Whole)


def test_what_the_codec_cannot_read_is_decoded_whole(scene, monkeypatch):
    image = decode_image(save(scene))
    region = regions_of(image)[-1]
    pixels, luma = image.source.windows([region], 10_000)[0], image.source.luma(region)
    monkeypatch.setattr(large_jpeg, "decode_region", lambda *_, **__: None)
    assert np.array_equal(image.source.windows([region], 10_000)[0], pixels)
    assert np.abs(image.source.luma(region).astype(int) - luma).mean() < 0.5


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_truncated_files_are_refused(scene, part):
    data = save(scene)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: int(len(data) * part)])
    assert caught.value.code in ("image.truncated", "image.corrupt")


def test_random_damage_never_escapes_the_error_type(scene):
    rng = np.random.default_rng(5)
    whole = np.frombuffer(save(scene), np.uint8)
    codes = set()
    for _ in range(20):
        damaged = whole.copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        try:
            prepare(damaged.tobytes())
        except ImageError as error:
            codes.add(error.code)
    assert codes <= {"image.truncated", "image.corrupt"}


def test_elongated_files(encode):
    for shape in ((1, 5000), (5000, 1), (40, 9000)):
        prepared = prepare(encode(np.zeros((*shape, 3), np.uint8)))
        assert (prepared.image.height, prepared.image.width) == shape


def test_threads_decode_at_the_same_time(scene):
    image = decode_image(save(scene))
    regions = regions_of(image) * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda region: image.source.windows([region], 10_000)[0], regions))
    assert all(np.array_equal(f, cut(image.pixels, r)) for f, r in zip(found, regions, strict=True))


def test_threads_load_the_codec_at_once_without_a_word_and_leave_the_environment_alone():
    code = """
import os, threading
from veridict.forensics import large_jpeg
before, barrier, loaded = dict(os.environ), threading.Barrier(4), []
def load():
    barrier.wait()
    large_jpeg._decoder()
    loaded.append(1)
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(loaded) == 4 and dict(os.environ) == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
