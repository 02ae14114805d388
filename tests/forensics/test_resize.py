"""Smaller copies."""

import cv2
import numpy as np
import pytest

from veridict.forensics.faces import resize_view
from veridict.forensics.resize import halved, shrink, to_preview
from veridict.forensics.views import clip_view


def test_halving_averages_and_leaves_the_odd_edge_out():
    pixels = np.zeros((5, 4, 3), np.uint8)
    pixels[::2, ::2] = 200
    assert halved(pixels).shape == (2, 2, 3)
    assert (halved(pixels) == 50).all()


@pytest.mark.parametrize(
    ("shape", "expected"), [((3000, 4001), (750, 1000)), ((1919, 100), (1919, 100)), ((1920, 1), None)]
)
def test_a_preview_is_halved_while_the_longer_side_keeps_its_length(shape, expected):
    assert to_preview(np.zeros((*shape, 3), np.uint8)).shape[:2] == (expected or shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((480, 640), (384, 512)), ((512, 512), (512, 512)), ((3000, 4000), (384, 512)), ((700, 1), (512, 1))],
)
def test_shrinks_to_the_longer_side_in_proportion(shape, expected):
    assert shrink(np.zeros((*shape, 3), np.uint8), 512).shape[:2] == expected


def test_shrinking_keeps_tones_where_the_image_is_finer_than_the_copy():
    """A checkerboard of single pixels turns grey in a copy of half the size or less: nothing is skipped."""
    board = np.indices((1200, 1200)).sum(axis=0) % 2 * 200
    pixels = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    for small in (shrink(pixels, 512), clip_view(pixels), resize_view(pixels, 224)):
        assert np.abs(small.astype(int) - 100).max() <= 2


def test_copies_look_like_area_averages(astronaut):
    for small in (shrink(astronaut, 320), clip_view(astronaut), resize_view(astronaut, 160)):
        area = cv2.resize(astronaut, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - area).mean() < 2.5
