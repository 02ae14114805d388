"""Fitting the calibration: fusion weights and thresholds per regime, from out-of-fold head scores.

The fit calls the functions that serve: the values of the terms come from ``fusion.compute_values`` and the
logits from ``Regime.weigh``, forensic cap included. In the figures, no image is judged by weights fitted on it: see
:mod:`.out_of_fold`. :mod:`.confidence` chooses which verdicts have high confidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from veridict.forensics.arrays import BoolArray, Float64Array, Int64Array
from veridict.forensics.calibration import (
    CLIP_AT,
    GENERAL,
    Calibration,
    Regime,
    Term,
    regime_name,
)
from veridict.forensics.fusion import compute_values
from veridict.forensics.judgement import PromptBank
from veridict.forensics.logits import sigmoid, to_logit
from veridict.forensics.observation import Observation
from veridict.forensics.policy import Decision
from veridict.forensics.signals import TERMS

from ..datasets import LABELS, Sample
from .token_head import source_weights

Values = Mapping[str, float]

#: From this ratio of a face's size to the image's shorter side the image is a close-up. The face CNN knows most about
#: close-ups; in other images a face is one thing among many.
CLOSE_UP_SHARE = 0.55
#: From this logit of the face CNN (probability 0.6) a close-up is suspect: one real face in twelve and two swaps in
#: three are.
SUSPECT_LOGIT = 0.4
#: Regime -> share of real images below the threshold in the worst tier. ``general`` is somewhat above the promised 0.97
#: of all images, as a margin for unseen sources. Close-ups allow more false alarms and so find far more swaps.
REAL_ACCURACY = {GENERAL: 0.976, "close_up": 0.97, "suspect": 0.15}
#: Forensic terms together count at most this many logits, and at most half of what a conviction needs.
FORENSIC_CAP = 0.35
#: Terms with different weights above and below their center.
TWO_SIDED = ("tokens", "face")
#: The center of ``face`` is this quantile over real faces; for suspect close-ups it is ``SUSPECT_LOGIT``.
RARE_AMONG_REAL = 0.9
#: Chance of leaving a signal out of a row in the fit of the fusion, so that no weight relies on another signal being
#: there.
_DROPPED = 0.3
_COPIES = 3
_STRENGTH = 1.0


@dataclass(frozen=True)
class Table:
    """One row per observed file: the values of its terms (``tokens`` is added later), its label and its origin.

    ``images`` [N] numbers the images; the qualities of one image have the same number. ``kinds`` are the kinds of image
    that confidence is measured by.
    """

    values: tuple[Values, ...]
    labels: Int64Array
    images: Int64Array
    sources: tuple[str, ...]
    families: tuple[str, ...]
    tiers: tuple[str, ...]
    kinds: tuple[str, ...]
    splits: tuple[str, ...]
    generators: tuple[str, ...]

    def rows_of(self, regime: str) -> BoolArray:
        """Return which rows a regime weighs: ``close_up``, ``suspect`` or ``general``."""
        return np.array([regime_name(kind) == regime for kind in self.kinds])

    def with_tokens(self, scores: Float64Array) -> Table:
        """Return the table with the head's scores as the term ``tokens``."""
        rows = zip(self.values, scores, strict=True)
        return replace(self, values=tuple({**values, "tokens": float(score)} for values, score in rows))

    def without(self, term: str, split: str) -> Table:
        """Return the table without a term in the rows of a split that the term was trained on."""
        rows = zip(self.values, self.splits, strict=True)
        kept = ({k: v for k, v in values.items() if not (k == term and own == split)} for values, own in rows)
        return replace(self, values=tuple(kept))

    def take(self, rows: Sequence[int] | Int64Array) -> Table:
        """Return some rows."""
        names = ("values", "sources", "families", "tiers", "kinds", "splits", "generators")
        parts = {name: tuple(getattr(self, name)[i] for i in rows) for name in names}
        index = np.asarray(rows, dtype=np.int64)
        return Table(labels=self.labels[index], images=self.images[index], **parts)


def tabulate(
    seen: Sequence[Observation],
    samples: Sequence[Sample],
    tiers: Sequence[str],
    bank: PromptBank,
    calibration: Calibration,
) -> Table:
    """Return the table of observed files; ``calibration`` gives percentiles and kinds. Its head is not used."""
    headless = replace(calibration, head=None)
    found = [compute_values(observation, bank, headless) for observation in seen]
    numbers = {path: i for i, path in enumerate(dict.fromkeys(s.path for s in samples))}
    return Table(
        values=tuple(values.terms for values in found),
        labels=np.array([LABELS[s.label] for s in samples]),
        images=np.array([numbers[s.path] for s in samples]),
        sources=tuple(s.source for s in samples),
        families=tuple(s.family or s.source for s in samples),
        tiers=tuple(tiers),
        kinds=tuple(values.kind for values in found),
        splits=tuple(s.split for s in samples),
        generators=tuple(s.kind for s in samples),
    )


@dataclass(frozen=True)
class Fusion:
    """The fitted regimes, and threshold and cap of each, by the names of ``calibration.REGIMES``."""

    regimes: dict[str, Regime]
    decisions: dict[str, Decision]

    def regime(self, kind: str) -> Regime:
        """Return the regime that weighs a kind of image."""
        return self.regimes[regime_name(kind)]

    def decide(self, kind: str) -> Decision:
        """Return threshold and cap for a kind of image."""
        return self.decisions[regime_name(kind)]

    def logits(self, table: Table) -> Float64Array:
        """Return the fused logit of every row, computed as it is served."""
        rows = zip(table.values, table.kinds, strict=True)
        return np.array([self._logit(values, kind) for values, kind in rows])

    def thresholds(self, table: Table) -> Float64Array:
        """Return the threshold that holds for every row, as a logit."""
        return np.array([to_logit(self.decide(kind).threshold) for kind in table.kinds])

    def _logit(self, values: Values, kind: str) -> float:
        regime = self.regime(kind)
        return math.fsum([regime.bias, *regime.weigh(values, self.decide(kind).forensic_cap).values()])


def fit_fusion(table: Table, seed: int = 0) -> Fusion:
    """Fit every regime's weights; their thresholds stay at one half."""
    # Real and fake weigh the same over all rows. Most suspect close-ups are fake; within that regime they stay so.
    weights = source_weights(table.labels, table.sources) * len(set(table.images.tolist())) / 2
    regimes = {name: _fit_regime(table, weights, name, seed) for name in REAL_ACCURACY}
    return Fusion(regimes, dict.fromkeys(regimes, Decision(0.5, FORENSIC_CAP)))


def _fit_regime(table: Table, weights: Float64Array, name: str, seed: int) -> Regime:
    """Fit one regime by L2 logistic regression; a regime with too few rows is fitted on all rows."""
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
            if name == "suspect":
                centers[i] = SUSPECT_LOGIT
            elif len(real):
                centers[i] = float(np.quantile(real, RARE_AMONG_REAL))
    z = np.nan_to_num(np.clip((values - centers) / scales, -CLIP_AT, CLIP_AT))
    # A two-sided term has a column for each side of its center; one of them is 0.
    sides = [TERMS.index(name) for name in TWO_SIDED]
    z = np.concatenate([z, np.minimum(z[:, sides], 0.0)], axis=1)
    z[:, sides] = np.maximum(z[:, sides], 0.0)
    used += [len(TERMS) + k for k, i in enumerate(sides) if i in used]
    rng = np.random.default_rng(seed)
    # A dropped signal counts as absent: its term is 0.
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
            # A higher score must not make an image more real.
            max(0.0, weights_of[len(TERMS) + TWO_SIDED.index(term)]) if term in TWO_SIDED else None,
        )
        for i, term in enumerate(TERMS)
        if i in weights_of
    }
    bias = float(model.intercept_[0])
    if name == "suspect" and "face" in terms:  # the face term carries the prior of suspect faces
        terms["face"], bias = replace(terms["face"], offset=bias), 0.0
    return Regime(bias, terms)


def choose_thresholds(fusion: Fusion, table: Table, logits: Float64Array) -> Fusion:
    """Return the regimes with thresholds that keep enough real images below them in the worst tier, and with caps."""
    real, tiers = table.labels == 0, np.array(table.tiers)

    def chosen(regime: Regime, rows: BoolArray, share: float) -> Decision:
        rows = rows if (rows & real).sum() >= 20 else np.ones_like(rows)
        worst = max(
            float(np.quantile(logits[real & rows & (tiers == t)], share))
            for t in sorted(set(tiers))
            if (real & rows & (tiers == t)).any()
        )
        # An image without any signal is judged real, and forensic terms alone must not change that.
        threshold = min(sigmoid(max(worst, regime.bias + 2 * FORENSIC_CAP)), 0.99)
        cap = max(0.0, min(FORENSIC_CAP, (to_logit(threshold) - regime.bias) / 2))
        return Decision(threshold, cap)

    decisions = {
        name: chosen(regime, table.rows_of(name), REAL_ACCURACY[name]) for name, regime in fusion.regimes.items()
    }
    return replace(fusion, decisions=decisions)


def fit_temperature(table: Table) -> float:
    """Return the temperature of the zero-shot softmax with the highest likelihood of the labels (Guo et al. 2017)."""
    margins = np.array([values["clip"] for values in table.values])
    weights = source_weights(table.labels, table.sources)
    signs = 2.0 * table.labels - 1.0
    grid = np.geomspace(0.25, 64.0, 97)
    losses = [float((weights * np.logaddexp(0.0, -signs * margins / t)).sum()) for t in grid]
    return float(grid[int(np.argmin(losses))])
