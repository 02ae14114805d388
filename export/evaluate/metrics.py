"""Binary detection metrics with bootstrap confidence intervals; numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def roc_auc(labels: Ints, scores: Floats) -> float:
    """Return the area under the ROC curve (ties count one half); NaN when one class is absent."""
    positives = int(labels.sum())
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[inverse]
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def expected_calibration_error(labels: Ints, probabilities: Floats, bins: int = 10) -> float:
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


def score(labels: Ints, probabilities: Floats, threshold: float = 0.5) -> Scores:
    """Return the figures at ``threshold`` for labels in {0 real, 1 fake} and fake probabilities, both [N]."""
    predicted = probabilities >= threshold
    fake = labels == 1
    true_positive = int((predicted & fake).sum())

    def rate(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    precision = rate(true_positive, int(predicted.sum()))
    recall = rate(true_positive, int(fake.sum()))
    return Scores(
        count=int(labels.size),
        real=int((~fake).sum()),
        fake=int(fake.sum()),
        roc_auc=roc_auc(labels, probabilities),
        accuracy=rate(int((predicted == fake).sum()), int(labels.size)),
        precision=precision,
        recall=recall,
        f1=rate(2 * true_positive, int(predicted.sum()) + int(fake.sum())),
        real_accuracy=rate(int((~predicted & ~fake).sum()), int((~fake).sum())),
    )


def bootstrap(
    labels: Ints,
    probabilities: Floats,
    statistic: Callable[[Ints, Floats], float],
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


def best_threshold(labels: Ints, probabilities: Floats) -> float:
    """Return the threshold of the highest accuracy on these very labels: an upper bound, not a setting to ship."""
    order = np.argsort(-probabilities, kind="stable")
    right = np.concatenate([[0], np.cumsum(2 * labels[order] - 1)])
    ordered = probabilities[order]
    # A cut is possible only between different probabilities.
    allowed = np.concatenate([[True], ordered[1:] != ordered[:-1], [True]])
    cut = int(np.flatnonzero(allowed)[np.argmax(right[allowed])])
    return float(ordered[cut - 1]) if cut else float(np.nextafter(ordered[0], np.inf))


def roc_curve(labels: Ints, scores: Floats) -> tuple[Floats, Floats]:
    """Return the false and the true positive rates [K] at every distinct score, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), labels.size - 1)
    true = np.cumsum(labels[order])[last] / max(1, int(labels.sum()))
    false = np.cumsum(1 - labels[order])[last] / max(1, int(labels.size - labels.sum()))
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def reliability(labels: Ints, probabilities: Floats, bins: int = 10) -> tuple[Floats, Floats]:
    """Return the mean probability and the share of fakes [K] of each of ``bins`` equal-count bins."""
    parts = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, labels.size))
    return np.array([probabilities[p].mean() for p in parts]), np.array([labels[p].mean() for p in parts])
