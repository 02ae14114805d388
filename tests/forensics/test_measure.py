"""The forensic measurements on pictures whose answers are known."""

import cv2
import numpy as np
import pytest

from veridict.forensics.decode import decode_image
from veridict.forensics.measure import (
    error_level_map,
    measure_blur,
    measure_noise,
    noise_residual_map,
    to_working_size,
)
from veridict.forensics.pixels import to_luma
from veridict.forensics.signals import SIGNALS, SignalRow, check_table, measure_image


def test_a_flat_picture_has_no_blur_noise_or_error(encode):
    flat = np.full((128, 160, 3), 90, np.uint8)
    signals = measure_image(decode_image(encode(flat, "JPEG", quality=95)))
    assert {name: m.value for name, m in signals.items()} == {"ela": 0.0, "blur": 0.0, "noise": 0.0}


def test_blur_falls_with_blurring(cat):
    luma = cv2.cvtColor(cat, cv2.COLOR_RGB2GRAY)
    values = [measure_blur(cv2.GaussianBlur(luma, (0, 0), s)).value for s in (0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values, reverse=True)


def test_blur_is_the_variance_of_the_laplacian(cat):
    luma = cv2.cvtColor(cat, cv2.COLOR_RGB2GRAY)
    assert measure_blur(luma).value == pytest.approx(cv2.Laplacian(luma, cv2.CV_64F).var(), rel=1e-9)


def test_noise_residual_of_salt_is_its_share(cat):
    plain = np.full((100, 100), 100, np.uint8)
    salted = plain.copy()
    salted[::10, ::10] = 200  # isolated pixels, which a 3x3 median removes
    assert measure_noise(salted).value == pytest.approx(100 * 100 / 10_000)
    assert noise_residual_map(plain).max() == 0


def test_error_level_points_at_a_part_with_another_history(encode, coffee):
    """A picture saved at quality 70, with a part pasted in that was never compressed."""
    once = decode_image(encode(coffee, "JPEG", quality=70)).pixels
    rng = np.random.default_rng(0)
    forged = once.copy()
    forged[96:224, 160:288] = np.clip(coffee[96:224, 160:288] + rng.normal(0, 8, (128, 128, 3)), 0, 255)
    luma = to_luma(decode_image(encode(forged, "JPEG", quality=95, subsampling=0)).pixels)
    levels = error_level_map(luma, 70).astype(float)
    inside = levels[96:224, 160:288].mean()
    assert inside > 2 * levels.mean()


def test_error_level_needs_a_jpeg_history(encode, cat):
    for form in ("PNG", "WEBP"):
        signal = measure_image(decode_image(encode(cat, form)))["ela"]
        assert signal.value is None
        assert form in signal.why_not


def test_small_pictures_say_why_nothing_applies(encode):
    signals = measure_image(decode_image(encode(np.zeros((40, 200, 3), np.uint8))))
    assert all(m.value is None and "below 64" in m.why_not for m in signals.values())


def test_working_size_bounds_the_longest_side():
    assert to_working_size(np.zeros((3000, 4000), np.uint8)).shape == (768, 1024)
    assert to_working_size(np.zeros((300, 400), np.uint8)).shape == (300, 400)
    assert to_working_size(np.zeros((1, 5000), np.uint8)).shape == (1, 1024)


def test_the_table_of_signals_is_checked():
    check_table()
    row = SIGNALS[-1]
    with pytest.raises(ValueError, match="has 'noise' twice"):
        check_table((*SIGNALS, row))
    wordless = SignalRow("grain", "luma", measure_noise, {"deepfake": "a", "real": "b"}, head="percentiles")
    with pytest.raises(ValueError, match="'grain' needs words for high, low, normal"):
        check_table((*SIGNALS, wordless))
