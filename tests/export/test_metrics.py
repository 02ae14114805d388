"""Metrics against cases worked out by hand."""

import math

import numpy as np
import pytest

from veridict.export.evaluate.metrics import (
    best_threshold,
    bootstrap,
    expected_calibration_error,
    reliability,
    roc_auc,
    score,
)


def test_auc_counts_ordered_pairs_and_half_ties():
    labels = np.array([0, 0, 1, 1])
    assert roc_auc(labels, np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert roc_auc(labels, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert math.isnan(roc_auc(np.array([1, 1]), np.array([0.1, 0.2])))


def test_scores_at_a_threshold():
    figures = score(np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.6, 0.2, 0.7, 0.3]), 0.5)
    assert (figures.accuracy, figures.precision, figures.recall, figures.f1) == (0.6, 0.5, 0.5, 0.5)
    assert figures.real_accuracy == pytest.approx(2 / 3)


def test_scores_of_an_absent_class_are_no_numbers():
    figures = score(np.array([0, 0, 0]), np.array([0.1, 0.6, 0.2]))
    assert (figures.real, figures.fake, figures.precision) == (3, 0, 0.0)
    assert figures.real_accuracy == pytest.approx(2 / 3)
    assert math.isnan(figures.recall)
    assert math.isnan(score(np.array([1, 0]), np.array([0.1, 0.2])).precision)
    assert math.isnan(figures.roc_auc)


def test_calibration_error_of_perfect_and_overconfident_scores():
    labels = np.array([0, 1] * 50)
    assert expected_calibration_error(labels, np.full(100, 0.5), bins=1) == pytest.approx(0)
    assert expected_calibration_error(labels, np.full(100, 0.9), bins=1) == pytest.approx(0.4)


def test_bootstrap_interval_holds_the_estimate_and_narrows():
    rng = np.random.default_rng(0)
    widths = []
    for n in (50, 800):
        labels = np.arange(n) % 2
        scores = labels + rng.normal(0, 1, n)
        low, high = bootstrap(labels, scores, roc_auc, rounds=200)
        assert low <= roc_auc(labels, scores) <= high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_the_best_threshold_is_the_most_accurate_cut():
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    best = best_threshold(labels, scores)
    assert score(labels, scores, best).accuracy == pytest.approx(5 / 6)
    assert all(score(labels, scores, t).accuracy <= 5 / 6 for t in np.linspace(0, 1, 101))
    assert best_threshold(np.array([0, 0]), np.array([0.2, 0.7])) > 0.7
    tied = best_threshold(np.array([0, 1, 1]), np.array([0.5, 0.5, 0.5]))
    assert tied == 0.5


def test_reliability_of_calibrated_scores_lies_on_the_diagonal():
    rng = np.random.default_rng(2)
    stated = rng.uniform(0, 1, 20000)
    labels = (rng.uniform(0, 1, 20000) < stated).astype(np.int64)
    x, y = reliability(labels, stated)
    assert np.abs(x - y).max() < 0.05
