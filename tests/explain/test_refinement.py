"""Integrated gradients: how far they are refined."""

import time

import pytest
import torch

from veridict.explain.attribution import Cancellation
from veridict.explain.errors import ExplainError
from veridict.explain.methods.integrated_gradients import integrate

PIXELS = torch.full((1, 4, 4, 3), 250.0)


def bend(pixels):
    """Return a score with many bends: [N] from [N, H, W, 3]."""
    return torch.sin(pixels.mean(dim=(1, 2, 3)))


def refine(forward, steps, cancellation):
    return integrate(forward, PIXELS, torch.zeros_like(PIXELS), steps, cancellation)


def test_refinement_ends_before_the_seconds_are_over_and_says_how_complete_it_is():
    """Of a slow network a rough map is better than none: the job would fail again at every attempt."""

    def slow(pixels):
        time.sleep(0.01 * len(pixels))
        return bend(pixels)

    token = Cancellation(2.0)
    attributions, figures = refine(slow, 4096, token)
    assert token.remaining > 0
    assert 8 < figures["steps_used"] < 4096
    assert figures["completeness_error"] > 0.008
    difference = float(bend(PIXELS))  # the score of the baseline is sin(0) = 0
    assert figures["output_difference"] == pytest.approx(difference, abs=1e-4)
    assert float(attributions.sum()) == pytest.approx(difference - figures["completeness_delta"], abs=1e-3)


@pytest.mark.parametrize("seconds", [60.0, None])
def test_with_time_left_the_steps_bound_it(seconds):
    assert refine(bend, 24, Cancellation(seconds))[1]["steps_used"] == 24


def test_pauses_for_verdicts_do_not_count(monkeypatch):
    token = Cancellation(30.0)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + token.waited)

    def paused(pixels):
        token.waited += 100.0  # as the limiter of a worker does while the server gives verdicts
        return bend(pixels)

    assert refine(paused, 40, token)[1]["steps_used"] == 40
    assert token.remaining > 0


def test_seconds_that_do_not_suffice_for_anything_are_an_error():
    token = Cancellation(-1.0)
    assert token.remaining < 0
    with pytest.raises(ExplainError, match=r"explain\.over_budget"):
        token.check()
