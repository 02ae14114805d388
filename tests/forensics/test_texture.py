"""The texture descriptor: its parts on pictures whose statistics are known, and its independence of the file."""

import cv2
import numpy as np
import pytest

from veridict.forensics import texture


def test_descriptor_has_its_length_and_no_missing_values(cat):
    for picture in (cat, np.zeros((64, 64, 3), np.uint8), np.full((70, 900, 3), 255, np.uint8)):
        described = texture.describe_texture(picture)
        assert described.shape == (texture.SIZE,)
        assert described.dtype == np.float32
        assert np.isfinite(described).all()


def test_small_pictures_have_none():
    assert texture.describe_texture(np.zeros((63, 400, 3), np.uint8)) is None


def test_flat_pictures_fall_into_the_central_triple():
    shares = texture.co_occurrence(np.full((80, 80), 99, np.uint8))
    assert shares.shape == (63,)
    assert shares.argmax() == 62
    assert shares[62] == pytest.approx(np.log(4.0), abs=1e-3)  # rows and columns, and its own mirror
    assert np.delete(shares, 62) == pytest.approx(np.log(1e-4))


def test_co_occurrence_merges_mirrored_triples():
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))
    assert texture.co_occurrence(ramp) == pytest.approx(texture.co_occurrence(ramp[:, ::-1]))


@pytest.mark.parametrize(("cycles", "band"), [(3, 1), (12, 6), (100, 15)])
def test_spectrum_puts_a_wave_into_its_band(cycles, band):
    x = np.arange(256)
    wave = np.tile(127 + 100 * np.sin(2 * np.pi * cycles * x / 256), (256, 1)).astype(np.uint8)
    assert abs(int(texture.spectrum(wave).argmax()) - band) <= 1


def test_tone_reads_saturation_and_extremes():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    mean_saturation, _, mean_value, deviation, dark, bright = texture.tone(picture)
    assert (mean_saturation, dark, bright) == (0, 0.5, 0.5)
    assert (mean_value, deviation) == (127.5, 127.5)


def test_residual_and_sharpness_grow_with_grain(cat):
    grey = cv2.cvtColor(cat, cv2.COLOR_RGB2GRAY)
    grain = np.clip(grey + np.random.default_rng(0).normal(0, 12, grey.shape), 0, 255).astype(np.uint8)
    assert texture.residual(grain)[0] > texture.residual(grey)[0]
    assert texture.sharpness(grain)[3] > texture.sharpness(cv2.GaussianBlur(grey, (0, 0), 3))[3]


def test_recompression_moves_the_descriptor_less_than_another_picture(cat, coffee):
    own, other = texture.describe_texture(cat), texture.describe_texture(coffee)
    again = cv2.imdecode(cv2.imencode(".jpg", cat[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)
    same = texture.describe_texture(np.ascontiguousarray(again[:, :, ::-1]))
    scale = np.abs(own - other) + 0.05
    assert np.median(np.abs(same - own) / scale) < 0.5
