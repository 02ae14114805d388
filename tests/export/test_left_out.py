"""Scores without the own family are those of a head that was fitted without it."""

import numpy as np
import pytest

from veridict.export.calibrate.left_out import score_left_out
from veridict.export.calibrate.token_head import HeadSettings, Tokens, fit_head
from veridict.forensics.token_head import unit_rows

pytestmark = pytest.mark.export


def make_data(families, seed=0):
    """Random tokens in three qualities; fakes lean along one direction."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, len(families))
    rows = rng.normal(size=(len(families), 3, 2, 8))
    rows[..., 0] += np.where(labels, 1.0, -1.0)[:, None, None]
    sources = tuple(f"{family}-{i % 2}" for i, family in enumerate(families))
    return Tokens(unit_rows(rows).astype(np.float16), labels, sources, tuple(families))


def refit_without(fitted, family, families, settings):
    """Solve the whole system again, without the rows and the landmarks of one family."""
    views = len(fitted.components) // len(families)
    inside = np.array(families) == family
    kept = ~inside[fitted.landmark_images]
    rows = np.repeat(inside, views)
    kernel = fitted.head.kernel(fitted.components).astype(np.float64)
    between = fitted.head.kernel(fitted.head.landmarks).astype(np.float64)
    weighted = kernel * fitted.roots[:, None]
    jitter = 1e-7 * np.trace(settings.ridge * between + weighted.T @ weighted)
    weighted = weighted[~rows][:, kept]
    system = settings.ridge * between[np.ix_(kept, kept)] + weighted.T @ weighted + jitter * np.eye(kept.sum())
    weights = np.linalg.solve(system, weighted.T @ (fitted.roots * fitted.targets)[~rows])
    return (kernel[rows][:, kept] @ weights).reshape(-1, views)


@pytest.mark.parametrize("landmarks", [30, 1000])
def test_scores_are_those_of_fits_without_the_family(landmarks):
    families = [f"f{i % 9}" for i in range(120)] + ["large"] * 60 + ["single"]
    data = make_data(families)
    settings = HeadSettings(components=12, landmarks=landmarks)
    fitted = fit_head(data, settings)
    scores = score_left_out(fitted, families)
    assert scores.shape == (181, 3)
    for family in ("f0", "f8", "large", "single"):
        expected = refit_without(fitted, family, families, settings)
        assert scores[np.array(families) == family] == pytest.approx(expected, abs=2e-4)
    served = fitted.head.kernel(fitted.components).astype(np.float64) @ fitted.head.weights
    assert np.abs(scores.ravel() - served).max() > 0.05  # a head that has seen the image scores it differently


def test_a_family_that_contradicts_all_others_is_judged_wrongly():
    """It would be judged rightly by a head that has learnt from it."""
    families = [f"f{i % 6}" for i in range(240)] + ["odd"] * 40
    data = make_data(families)
    odd = np.array(families) == "odd"
    labels = np.where(odd, 1 - data.labels, data.labels)
    turned = Tokens(data.views, labels, data.sources, data.families)
    scores = score_left_out(fit_head(turned, HeadSettings(components=12)), families)
    right = (scores[:, 0] > 0) == (labels == 1)
    assert right[~odd].mean() > 0.8
    assert right[odd].mean() < 0.3


def test_one_family_has_nothing_to_be_judged_by():
    families = ["one"] * 20
    with pytest.raises(ValueError, match="at least two families"):
        score_left_out(fit_head(make_data(families), HeadSettings(components=4)), families)
