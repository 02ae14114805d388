"""Fitting the calibration: fusion weights per regime, thresholds and uncertain bands, from out-of-fold head scores.

Everything that serves is called here as it serves: the values of the terms come from ``fusion.signal_values`` and the
logits from ``Regime.weigh``, forensic cap included. What is fitted on a picture never judges it in the figures: heads
and fusion are cross-validated over the same folds, which keep the families of sources together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from veridict.forensics.calibration import CLIP_AT, CLOSE_UP, OTHER, SUSPECT, TERMS, Calibration, Regime, Term
from veridict.forensics.fusion import Observation, PromptBank, picture_kind, read_signal, sigmoid, signal_values

from ..datasets import LABELS, Sample
from .token_head import source_weights

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Values = Mapping[str, float]

#: A face this long against the picture's shorter side makes it a close-up, of which the face CNN knows most; in other
#: pictures a face is one thing among many.
CLOSE_UP_SHARE = 0.55
#: From this logit of the face CNN on (0.6) a close-up is suspect: one real face in twelve is, and two swaps in three.
SUSPECT_LOGIT = 0.4
GENERAL = "general"
#: Share of real pictures that the threshold lets pass in the worst tier: somewhat above what is promised (0.97 of all
#: pictures), for the sources not yet seen. Close-ups allow more false alarms, and find far more swaps for it.
REAL_ACCURACY = {GENERAL: 0.976, CLOSE_UP: 0.97, SUSPECT: 0.15}
#: Verdicts outside the uncertain band were right at least this often on sources left out; 0.9 is promised.
HIGH_ACCURACY = 0.925
#: Forensic terms together count at most this many logits, and at most half of what a conviction needs.
FORENSIC_CAP = 0.35
#: Terms that weigh differently above and below their center; a face's center is what so many real faces stay below (of
#: suspect faces the least suspicious).
TWO_SIDED = ("tokens", "face")
RARE_AMONG_REAL = 0.9
#: Chance of leaving a signal out of a row when the fusion is fitted, so that no weight relies on another signal's
#: company.
_DROPPED = 0.3
_COPIES = 3
_STRENGTH = 1.0
#: Fewest pictures of a kind from which a band of its own is fitted.
_FEWEST = 200


@dataclass(frozen=True)
class Table:
    """One row per observed file: the values of its terms but ``tokens``, its label, and who it is.

    ``pictures`` numbers the pictures, so that the qualities of one stay together; ``kinds`` are those that confidence
    is measured by.
    """

    values: tuple[Values, ...]
    labels: Ints
    pictures: Ints
    sources: tuple[str, ...]
    families: tuple[str, ...]
    tiers: tuple[str, ...]
    kinds: tuple[str, ...]
    splits: tuple[str, ...]
    generators: tuple[str, ...]

    def rows_of(self, regime: str) -> npt.NDArray[np.bool_]:
        """Return which rows are weighed by a regime: one of the two of close-ups, or ``general``."""
        return np.array([regime_of(kind) == regime for kind in self.kinds])

    def with_tokens(self, scores: Floats) -> Table:
        """Return the table with the head's logits as the term ``tokens``."""
        rows = zip(self.values, scores, strict=True)
        return replace(self, values=tuple({**values, "tokens": float(score)} for values, score in rows))

    def without(self, term: str, split: str) -> Table:
        """Return the table without a term in the rows of a split: what that split has taught says nothing about it."""
        rows = zip(self.values, self.splits, strict=True)
        kept = ({k: v for k, v in values.items() if not (k == term and own == split)} for values, own in rows)
        return replace(self, values=tuple(kept))

    def take(self, rows: Sequence[int] | Ints) -> Table:
        """Return some rows."""
        names = ("values", "sources", "families", "tiers", "kinds", "splits", "generators")
        parts = {name: tuple(getattr(self, name)[i] for i in rows) for name in names}
        index = np.asarray(rows, dtype=np.int64)
        return Table(labels=self.labels[index], pictures=self.pictures[index], **parts)


def tabulate(
    seen: Sequence[Observation],
    samples: Sequence[Sample],
    tiers: Sequence[str],
    bank: PromptBank,
    calibration: Calibration,
) -> Table:
    """Return the table of observed files; ``calibration`` gives percentiles and kinds, its head is not used."""
    headless = replace(calibration, head=None)
    values, kinds = [], []
    for observation in seen:
        logits = bank.similarities(observation.embedding)
        longest = max(observation.image.width, observation.image.height)
        signals = {n: read_signal(n, m, longest, headless) for n, m in observation.measurements.items()}
        values.append(signal_values(observation, signals, logits, headless))
        kinds.append(picture_kind(observation, bank.labels[int(logits[2:].argmax())], headless))
    numbers = {path: i for i, path in enumerate(dict.fromkeys(s.path for s in samples))}
    return Table(
        values=tuple(values),
        labels=np.array([LABELS[s.label] for s in samples]),
        pictures=np.array([numbers[s.path] for s in samples]),
        sources=tuple(s.source for s in samples),
        families=tuple(s.family or s.source for s in samples),
        tiers=tuple(tiers),
        kinds=tuple(kinds),
        splits=tuple(s.split for s in samples),
        generators=tuple(s.kind for s in samples),
    )


def regime_of(kind: str) -> str:
    """Return the name of the regime that weighs a kind of picture."""
    return kind if kind in (CLOSE_UP, SUSPECT) else GENERAL


@dataclass(frozen=True)
class Fusion:
    """The fitted regimes by name."""

    regimes: dict[str, Regime]

    def regime(self, kind: str) -> Regime:
        """Return the regime that weighs a kind of picture."""
        return self.regimes[regime_of(kind)]

    def logits(self, table: Table) -> Floats:
        """Return the fused logit of every row, computed as it is served."""
        return np.array([_logit(self.regime(k), v) for v, k in zip(table.values, table.kinds, strict=True)])

    def thresholds(self, table: Table) -> Floats:
        """Return the threshold that holds for every row, as a logit."""
        return np.array([to_logit(self.regime(kind).threshold) for kind in table.kinds])


def _logit(regime: Regime, values: Values) -> float:
    return math.fsum([regime.bias, *regime.weigh(values).values()])


def to_logit(probability: float) -> float:
    """Return log(p / (1 - p))."""
    return math.log(probability / (1.0 - probability))


def fit_fusion(table: Table, seed: int = 0) -> Fusion:
    """Fit every regime's weights; their thresholds stay at one half."""
    # Over all rows, real and fake weigh the same; of suspect close-ups most are fake, and that stays so.
    weights = source_weights(table.labels, table.sources) * len(set(table.pictures.tolist())) / 2
    return Fusion({name: _fit_regime(table, weights, name, seed) for name in REAL_ACCURACY})


def _fit_regime(table: Table, weights: Floats, name: str, seed: int) -> Regime:
    """Fit one regime by L2 logistic regression; on all rows where it has too few to learn from."""
    from sklearn.linear_model import LogisticRegression

    rows = np.flatnonzero(table.rows_of(name))
    if len(rows) < 40 or len(set(table.labels[rows])) < 2:
        rows = np.arange(len(table.labels))
    part = table.take(rows)
    values = np.array([[row.get(name, np.nan) for name in TERMS] for row in part.values])
    weights = weights[rows]
    known = ~np.isnan(values)
    used = [i for i in range(len(TERMS)) if known[:, i].any()]
    centers, scales = np.zeros(len(TERMS)), np.ones(len(TERMS))
    for i in used:
        column, weight = values[known[:, i], i], weights[known[:, i]]
        centers[i] = np.average(column, weights=weight)
        scales[i] = max(math.sqrt(np.average((column - centers[i]) ** 2, weights=weight)), 1e-6)
        if TERMS[i] == "face":
            real = column[part.labels[known[:, i]] == 0]
            if name == SUSPECT:
                centers[i] = SUSPECT_LOGIT
            elif len(real):
                centers[i] = float(np.quantile(real, RARE_AMONG_REAL))
    z = np.nan_to_num(np.clip((values - centers) / scales, -CLIP_AT, CLIP_AT))
    # A term with a weight for either side is two columns, of which one is 0.
    sides = [TERMS.index(name) for name in TWO_SIDED]
    z = np.concatenate([z, np.minimum(z[:, sides], 0.0)], axis=1)
    z[:, sides] = np.maximum(z[:, sides], 0.0)
    used += [len(TERMS) + k for k, i in enumerate(sides) if i in used]
    rng = np.random.default_rng(seed)
    # A dropped signal is an absent one: its term is 0, and the others have to do without it.
    copies = [z]
    for _ in range(_COPIES):
        kept = rng.random((len(z), len(TERMS))) >= _DROPPED
        copies.append(z * np.concatenate([kept, kept[:, sides]], axis=1))
    model = LogisticRegression(C=_STRENGTH, max_iter=2000)
    model.fit(
        np.concatenate(copies)[:, used],
        np.tile(part.labels, len(copies)),
        sample_weight=np.tile(weights / len(copies), len(copies)),
    )
    weights_of = dict(zip(used, model.coef_[0].tolist(), strict=True))
    terms = {
        term: Term(
            weights_of[i],
            float(centers[i]),
            float(scales[i]),
            # A higher score is never a reason to think a picture more real.
            max(0.0, weights_of[len(TERMS) + TWO_SIDED.index(term)]) if term in TWO_SIDED else None,
        )
        for i, term in enumerate(TERMS)
        if i in weights_of
    }
    bias = float(model.intercept_[0])
    if name == SUSPECT and "face" in terms:  # what most suspect faces are is said by the face, not by the prior
        terms["face"], bias = replace(terms["face"], offset=bias), 0.0
    return Regime(bias, terms, FORENSIC_CAP, 0.5)


def choose_thresholds(fusion: Fusion, table: Table, logits: Floats) -> Fusion:
    """Return the regimes with thresholds that let enough real pictures pass in the worst tier, and fitting caps."""
    real, tiers = table.labels == 0, np.array(table.tiers)

    def chosen(regime: Regime, rows: npt.NDArray[np.bool_], share: float) -> Regime:
        rows = rows if (rows & real).sum() >= 20 else np.ones_like(rows)
        worst = max(
            float(np.quantile(logits[real & rows & (tiers == t)], share))
            for t in sorted(set(tiers))
            if (real & rows & (tiers == t)).any()
        )
        # A picture of which nothing is known is real, and forensic terms alone do not change that.
        threshold = min(sigmoid(max(worst, regime.bias + 2 * FORENSIC_CAP)), 0.99)
        cap = max(0.0, min(FORENSIC_CAP, (to_logit(threshold) - regime.bias) / 2))
        return replace(regime, threshold=threshold, forensic_cap=cap)

    return Fusion(
        {name: chosen(regime, table.rows_of(name), REAL_ACCURACY[name]) for name, regime in fusion.regimes.items()}
    )


def choose_bands(
    fusion: Fusion, table: Table, logits: Floats, known: Iterable[str] = ()
) -> dict[str, tuple[float, float]]:
    """Return, per kind of picture (``known`` ones too), the probabilities between which verdicts are too often wrong.

    Outside of it at least ``HIGH_ACCURACY`` of the verdicts on each side are right. It reaches at least as far from the
    threshold as forensic terms can move a logit: what a container or a missing signal can flip is never of high
    confidence.
    """
    margins = logits - fusion.thresholds(table)
    kinds = np.array(table.kinds)
    bands = {}
    for kind in sorted({OTHER, CLOSE_UP, SUSPECT, *known, *table.kinds}):
        rows = kinds == kind
        if kind == OTHER or rows.sum() < _FEWEST or len(set(table.labels[rows])) < 2:
            rows = np.ones_like(rows)
        regime = fusion.regime(kind)
        least = 2 * regime.forensic_cap
        low = min(-least, -_least_margin(-margins[rows], table.labels[rows] == 0))
        high = max(least, _least_margin(margins[rows], table.labels[rows] == 1))
        center = to_logit(regime.threshold)
        bands[kind] = (sigmoid(center + low), sigmoid(center + high))
    return bands


def _least_margin(margins: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Return the least margin >= 0 from which on enough of the rows with at least that margin are right."""
    order = np.argsort(-margins, kind="stable")
    order = order[margins[order] >= 0]
    if not len(order):
        return 0.0
    accuracy = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(accuracy >= HIGH_ACCURACY)
    if not len(enough):
        return float(margins[order[0]]) + 1e-6
    return float(margins[order[enough[-1]]])


def fit_temperature(table: Table) -> float:
    """Return the temperature that makes the zero-shot softmax most likely on the labels (Guo et al. 2017)."""
    margins = np.array([values["clip"] for values in table.values])
    weights = source_weights(table.labels, table.sources)
    signs = 2.0 * table.labels - 1.0
    grid = np.geomspace(0.25, 64.0, 97)
    losses = [float((weights * np.logaddexp(0.0, -signs * margins / t)).sum()) for t in grid]
    return float(grid[int(np.argmin(losses))])
