"""CLIP's view: what is cut off, and what makes no difference."""

import cv2
import numpy as np
import pytest

from veridict.explain.subject import read_subject
from veridict.forensics.faces import Box
from veridict.forensics.views import clip_view, compress, content_box


def framed(pixels, top, bottom, left, right, colour):
    return cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=colour)


@pytest.mark.parametrize(
    "margins", [(40, 40, 0, 0), (0, 0, 90, 91), (20, 0, 0, 0), (0, 3, 0, 0), (30, 30, 30, 30), (0, 0, 0, 0)]
)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 90, 200)])
def test_flat_margins_are_no_content(cat, margins, colour):
    top, _, left, _ = margins
    inner = content_box(cat)
    found = content_box(framed(cat, *margins, colour))
    assert found == Box(left + inner.x, top + inner.y, inner.width, inner.height)


def test_margins_may_differ_in_colour(cat):
    assert content_box(framed(framed(cat, 30, 0, 0, 0, (0, 0, 0)), 0, 0, 25, 0, (255, 255, 255)))[:2] == (25, 30)


def test_a_compressed_frame_is_still_flat(cat):
    height, width = cat.shape[:2]
    found = content_box(compress(framed(cat, 48, 48, 0, 0, (0, 0, 0))))
    assert abs(found.y - 48) <= 8
    assert abs(found.height - height) <= 16
    assert found.width == width


def test_photographs_have_no_margins(cat, astronaut):
    for pixels in (cat, astronaut):
        assert content_box(pixels) == (0, 0, pixels.shape[1], pixels.shape[0])


def test_nothing_is_cut_off_where_too_little_would_remain(cat):
    blank = np.full((300, 400, 3), 250, np.uint8)
    assert content_box(blank) == (0, 0, 400, 300)
    spot = blank.copy()
    spot[140:160, 190:200] = cat[100:120, 100:110]
    assert content_box(spot) == (0, 0, 400, 300)


def test_soft_gradients_are_content():
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[:, None] // 9, 120, axis=1)
    pixels = np.repeat(ramp[..., None], 3, axis=2)
    assert content_box(pixels) == (0, 0, 120, 100)
    assert content_box(np.ascontiguousarray(pixels.swapaxes(0, 1))) == (0, 0, 100, 120)


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8, 3), (2, 4000, 3), (4000, 2, 3), (1, 700, 3)])
def test_any_shape_has_a_view(shape):
    rng = np.random.default_rng(0)
    for pixels in (np.zeros(shape, np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)):
        assert clip_view(pixels).shape == (224, 224, 3)


def test_a_frame_hardly_changes_the_view(cat):
    plain = clip_view(cat).astype(int)
    letterboxed = clip_view(framed(cat, 64, 64, 0, 0, (0, 0, 0))).astype(int)
    squeezed = cv2.resize(framed(cat, 64, 64, 0, 0, (0, 0, 0)), (224, 224), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(letterboxed - plain).mean() < 3 < np.abs(squeezed - plain).mean()


def test_the_view_of_a_compressed_copy_is_closer_than_the_pixels_are(cat):
    """The view is compressed anyway, so one more compression changes less of it."""
    noisy = np.clip(cat + np.random.default_rng(0).normal(0, 8, cat.shape), 0, 255).astype(np.uint8)
    pixels = np.abs(compress(noisy).astype(int) - noisy).mean()
    views = np.abs(clip_view(compress(noisy)).astype(int) - clip_view(noisy)).mean()
    assert views < pixels / 3


def test_the_region_of_the_view_is_the_content_in_pixels_of_the_image(encode, cat):
    large = cv2.resize(cat, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    height, width = large.shape[:2]
    x, y, across, down = read_subject(encode(framed(large, 150, 150, 0, 0, (0, 0, 0)), "PNG")).view_region
    assert (x, across) == (0, width)
    assert abs(y - 150) <= 4
    assert abs(down - height) <= 8
