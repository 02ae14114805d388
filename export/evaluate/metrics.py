"""Binary detection metrics with bootstrap confidence intervals.

Precision, recall and F1 are scikit-learn's. The rest is computed here:

- The area under the ROC curve is evaluated hundreds of times by a bootstrap. 1,000 rounds over 500 images took 0.45 s
  with this function and 11 s with ``sklearn.metrics.roc_auc_score``, which checks its input each time; over 6,000
  images 2.4 s and 14 s.
- ``scipy.stats.bootstrap`` would draw other samples and so give other intervals than those that were published.
- scikit-learn has no expected calibration error. Its ``calibration_curve`` cuts at quantiles of the probabilities, so
  that ties make bins of unequal count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from veridict.forensics.arrays import Float64Array, Int64Array


def roc_auc(labels: Int64Array, scores: Float64Array) -> float:
    """Return the area under the ROC curve (ties count one half); NaN when one class is absent."""
    positives = int(labels.sum())
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[inverse]
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def expected_calibration_error(labels: Int64Array, probabilities: Float64Array, bins: int = 10) -> float:
    """Return the expected calibration error over ``bins`` equal-count bins (Naeini et al. 2015, adaptive bins)."""
    order = np.argsort(probabilities, kind="stable")
    error = 0.0
    for part in np.array_split(order, min(bins, labels.size)):
        error += part.size / labels.size * abs(float(labels[part].mean()) - float(probabilities[part].mean()))
    return error


@dataclass(frozen=True)
class Scores:
    """The figures of one detector on one set of images; every rate is in 0..1, NaN where a class is absent."""

    count: int
    real: int
    fake: int
    roc_auc: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    real_accuracy: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures as plain numbers."""
        return asdict(self)


def score(labels: Int64Array, probabilities: Float64Array, threshold: float = 0.5) -> Scores:
    """Return the figures at ``threshold`` for labels in {0 real, 1 fake} and fake probabilities, both [N]."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted = (probabilities >= threshold).astype(np.int64)
    precision, recall, f1, counts = precision_recall_fscore_support(
        labels, predicted, labels=[0, 1], zero_division=np.nan
    )
    return Scores(
        count=int(labels.size),
        real=int(counts[0]),
        fake=int(counts[1]),
        roc_auc=roc_auc(labels, probabilities),
        accuracy=float(np.mean(predicted == labels)),
        precision=float(precision[1]),
        recall=float(recall[1]),
        f1=float(f1[1]),
        real_accuracy=float(recall[0]),
    )


def bootstrap(
    labels: Int64Array,
    probabilities: Float64Array,
    statistic: Callable[[Int64Array, Float64Array], float],
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95% percentile-bootstrap interval of ``statistic``, resampling images within each class."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(labels == value) for value in (0, 1) if (labels == value).any()]
    values = []
    for _ in range(rounds):
        chosen = np.concatenate([rng.choice(part, part.size) for part in classes])
        values.append(statistic(labels[chosen], probabilities[chosen]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def best_threshold(labels: Int64Array, probabilities: Float64Array) -> float:
    """Return the threshold with the highest accuracy on these labels: an upper bound, not a setting to ship."""
    order = np.argsort(-probabilities, kind="stable")
    right = np.concatenate([[0], np.cumsum(2 * labels[order] - 1)])
    ordered = probabilities[order]
    # A cut is possible only between different probabilities.
    allowed = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])
    cut = int(np.flatnonzero(allowed)[np.argmax(right[allowed])])
    return float(ordered[cut - 1]) if cut else float(np.nextafter(ordered[0], np.inf))


def reliability(labels: Int64Array, probabilities: Float64Array, bins: int = 10) -> tuple[Float64Array, Float64Array]:
    """Return the mean probability and the share of fakes [K] of each of ``bins`` equal-count bins."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, labels.size))
    return np.array([probabilities[p].mean() for p in parts]), np.array([labels[p].mean() for p in parts])
