"""Chooses which verdicts have high confidence: those that are right often enough on sources that were left out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from veridict.forensics.arrays import BoolArray, Float64Array
from veridict.forensics.calibration import CLOSE_UP, OTHER, SUSPECT
from veridict.forensics.logits import sigmoid, to_logit

from .fitting import Fusion, Table

#: What high confidence promises: the share of right verdicts on sources never seen.
PROMISED = 0.9
#: Least accuracy outside the uncertain band, on sources that were left out: the promise and a margin.
HIGH_ACCURACY = 0.925
#: A kind with fewer images gets the band of all kinds; fewer faces say nothing about their like.
_FEWEST = 200


def choose_bands(
    fusion: Fusion, table: Table, logits: Float64Array, known: Iterable[str] = ()
) -> dict[str, tuple[float, float]]:
    """Return the uncertain band per kind of image: the probabilities between which verdicts are too often wrong.

    ``known`` names kinds that get a band even if the table has none of them. Outside the band at least
    ``HIGH_ACCURACY`` of the verdicts on each side are right. The band reaches at least as far from the threshold as
    forensic terms can move a logit: a verdict that a container or a missing signal can flip never has high confidence.
    """
    margins = logits - fusion.thresholds(table)
    kinds = np.array(table.kinds)
    bands = {}
    for kind in sorted({OTHER, CLOSE_UP, SUSPECT, *known, *table.kinds}):
        rows = kinds == kind
        if kind == OTHER or rows.sum() < _FEWEST or len(set(table.labels[rows])) < 2:
            rows = np.ones_like(rows)
        decision = fusion.decide(kind)
        least = 2 * decision.forensic_cap
        low = min(-least, -_least_margin(-margins[rows], table.labels[rows] == 0))
        high = max(least, _least_margin(margins[rows], table.labels[rows] == 1))
        center = to_logit(decision.threshold)
        bands[kind] = (sigmoid(center + low), sigmoid(center + high))
    return bands


def _least_margin(margins: Float64Array, right: BoolArray) -> float:
    """Return the least margin >= 0 such that enough of the rows with at least that margin are right."""
    order = np.argsort(-margins, kind="stable")
    order = order[margins[order] >= 0]
    if not len(order):
        return 0.0
    accuracy = _running_accuracy(right[order])
    enough = np.flatnonzero(accuracy >= HIGH_ACCURACY)
    if not len(enough):
        return float(margins[order[0]]) + 1e-6
    return float(margins[order[enough[-1]]])


def _running_accuracy(right: BoolArray) -> Float64Array:
    """Return the share of right ones among the first 1, 2, ... N."""
    return np.asarray(np.cumsum(right) / np.arange(1, len(right) + 1))


def choose_undecided_face(bands: dict[str, tuple[float, float]], table: Table, logits: Float64Array) -> float:
    """Return the fake probability of a face from which the verdict real has low confidence; 1 if there is none.

    Of the images called real outside the uncertain band whose most suspicious face is at least so suspicious, fewer
    than ``PROMISED`` are real. The lowest such probability is returned.
    """
    faces = np.array([values.get("face", np.nan) for values in table.values])
    below = np.array([sigmoid(float(logit)) < bands[kind][0] for logit, kind in zip(logits, table.kinds, strict=True)])
    rows = np.flatnonzero(below & ~np.isnan(faces))
    order = rows[np.argsort(-faces[rows], kind="stable")]
    accuracy = _running_accuracy(table.labels[order] == 0)
    wrong = np.flatnonzero(accuracy[_FEWEST - 1 :] < PROMISED) + _FEWEST - 1
    return sigmoid(float(faces[order[wrong[-1]]])) if len(wrong) else 1.0
