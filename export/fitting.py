"""Fitting the calibration: linear heads, fusion weights per regime, threshold and uncertain band.

All models are L2 logistic regressions. The scores of the heads that the fusion learns from are out-of-fold, and so are
the figures reported, of the whole fit: no picture is judged by weights it shaped. Copies of one picture (its quality
tiers) always share a fold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from veridict.forensics.calibration import FORENSIC, Percentiles
from veridict.forensics.fusion import Observation, PromptBank, face_share
from veridict.forensics.texture import SIZE as TEXTURE_SIZE

from .datasets import LABELS, Sample

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: The linear heads, parts of one model: each term with the table's vectors that it scores.
HEADS = {"clip_head": "embeddings", "clip_layers": "intermediates", "texture": "textures"}
TERMS = ("clip", *HEADS, "face", *FORENSIC)
#: A face this long against the picture's shorter side makes it a close-up, of which the face CNN knows most; in other
#: pictures a face is one thing among many.
CLOSE_UP_SHARE = 0.55
#: Share of real pictures that the threshold lets pass: a point above what is promised, for the pictures not yet seen.
REAL_ACCURACY = 0.965
UNCERTAIN_SHARE = 0.15
_FOLDS = 5
_CLIP = 4.0
#: Inverse L2 strengths, of the heads (set by cross-validation on the general pictures) and of the fusion's few terms.
HEAD_STRENGTH = 0.03
_FUSION_STRENGTH = 1.0
#: Weight of the pictures that the heads are to say nothing of, against those they learn from.
_SILENCE = 4.0


@dataclass(frozen=True)
class Table:
    """One row per observed file: term values (NaN where they do not apply) [N, T], vectors, labels, and who it is.

    ``groups`` [N] numbers the pictures, so that copies of one stay together; ``general`` marks the rows that the linear
    heads learn from, since face sets would teach them what the face CNN does better; ``close_up`` those that a face
    fills.
    """

    values: Floats
    embeddings: Floats
    textures: Floats
    intermediates: Floats
    labels: Ints
    groups: Ints
    sources: tuple[str, ...]
    tiers: tuple[str, ...]
    weights: Floats
    general: npt.NDArray[np.bool_]
    close_up: npt.NDArray[np.bool_]

    def take(self, rows: Ints) -> Table:
        """Return the rows as a table of their own."""
        arrays = {
            name: getattr(self, name)[rows]
            for name in ("values", *HEADS.values(), "labels", "groups", "weights", "general", "close_up")
        }
        sources, tiers = (tuple(part[i] for i in rows) for part in (self.sources, self.tiers))
        return Table(sources=sources, tiers=tiers, **arrays)


@dataclass(frozen=True)
class Head:
    """A fitted linear head: weights [D] and bias."""

    weights: Floats
    bias: float

    def score(self, vectors: Floats) -> Floats:
        """Return logits [N] of vectors [N, D]; NaN rows stay NaN."""
        return np.asarray(vectors @ self.weights + self.bias, dtype=np.float64)


@dataclass(frozen=True)
class RegimeFit:
    """Fitted fusion weights of one regime: weights, centers and scales [T], and the bias."""

    weights: Floats
    centers: Floats
    scales: Floats
    bias: float

    def logits(self, values: Floats) -> Floats:
        """Return fused logits [N] of term values [N, T], before the forensic cap; absent terms add nothing."""
        z = np.nan_to_num(np.clip((values - self.centers) / self.scales, -_CLIP, _CLIP))
        return np.asarray(z @ self.weights + self.bias, dtype=np.float64)


@dataclass(frozen=True)
class Fusion:
    """Everything fitted: the heads by term, and both regimes."""

    heads: dict[str, Head]
    close_up: RegimeFit
    general: RegimeFit

    def logits(self, table: Table) -> Floats:
        """Return fused logits [N], with the heads' own scores in place of the table's."""
        values = table.values.copy()
        for name, head in self.heads.items():
            values[:, TERMS.index(name)] = head.score(getattr(table, HEADS[name]))
        return np.where(table.close_up, self.close_up.logits(values), self.general.logits(values))


def tabulate(
    seen: Sequence[Observation],
    samples: Sequence[Sample],
    tiers: Sequence[str],
    percentiles: dict[str, Percentiles],
    bank: PromptBank,
    head_sources: Sequence[str] = (),
) -> Table:
    """Return the table of observed files; the columns of the heads are NaN until the heads are fitted."""
    rows, textures = [], []
    for observation in seen:
        logits = bank.similarities(observation.embedding)
        longest = max(observation.image.width, observation.image.height)
        row = dict.fromkeys(TERMS, float("nan")) | {"clip": float(logits[1] - logits[0])}
        if observation.face_logits:
            row["face"] = max(observation.face_logits)
        for name in FORENSIC:
            value = observation.measurements[name].value
            if value is not None:
                row[name] = percentiles[name].percentile(value, longest) / 50.0 - 1.0
        rows.append([row[name] for name in TERMS])
        missing = np.full(TEXTURE_SIZE, np.nan)
        textures.append(missing if observation.texture is None else observation.texture.astype(np.float64))
    labels = np.array([LABELS[s.label] for s in samples])
    sources = tuple(s.source for s in samples)
    numbers = {path: i for i, path in enumerate(dict.fromkeys(s.path for s in samples))}
    table = Table(
        values=np.array(rows),
        embeddings=np.stack([o.embedding for o in seen]).astype(np.float64),
        intermediates=np.stack([o.intermediates for o in seen if o.intermediates is not None]).astype(np.float64),
        textures=np.stack(textures),
        labels=labels,
        groups=np.array([numbers[s.path] for s in samples]),
        sources=sources,
        tiers=tuple(tiers),
        weights=np.ones(len(labels)),
        general=np.array([not head_sources or s in head_sources for s in sources]),
        close_up=np.array([face_share(o.boxes, o.image.width, o.image.height) >= CLOSE_UP_SHARE for o in seen]),
    )
    return balance(table)


def balance(table: Table) -> Table:
    """Return the table with fresh weights: a source and class weighs by the root of its size, classes weigh the same.

    Weights sum to the number of pictures, so that copies do not count as further evidence against the L2 penalty.
    """
    keys = list(zip(table.sources, table.labels.tolist(), strict=True))
    counts = Counter(keys)
    raw = np.array([1.0 / math.sqrt(counts[key]) for key in keys])
    pictures = len(set(table.groups.tolist()))
    for label in (0, 1):
        rows = table.labels == label
        if rows.any():
            raw[rows] *= 0.5 * pictures / raw[rows].sum()
    return replace(table, weights=raw)


def folds(table: Table, seed: int) -> list[Ints]:
    """Return the test rows of each fold, stratified by source and class over pictures."""
    from sklearn.model_selection import StratifiedKFold

    pictures, first = np.unique(table.groups, return_index=True)
    keys = [f"{table.sources[i]}/{table.labels[i]}" for i in first]
    splitter = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(keys)), keys)
    return [np.flatnonzero(np.isin(table.groups, pictures[test])) for _, test in parts]


def _logistic(x: Floats, labels: Ints, weights: Floats, strength: float) -> tuple[Floats, float]:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=2000).fit(x, labels, sample_weight=weights)
    return model.coef_[0].astype(np.float64), float(model.intercept_[0])


def _fit_heads(table: Table, strength: float) -> dict[str, Head]:
    """Fit one linear model on embedding, middle layers and texture together; return it as its additive parts by term.

    Together they rank better than models stacked, and a sum still tells what each part contributed. Rows without a
    texture are left out. Rows of sources that the heads do not learn from count as real and as fake at once: there the
    heads learn to say nothing, and what they say of other close-ups can be trusted more.
    """
    known = ~np.isnan(table.textures[:, 0])
    part = balance(table.take(np.flatnonzero(table.general & known)))
    silent = table.take(np.flatnonzero(~table.general & known))
    vectors, others = ([getattr(t, name) for name in HEADS.values()] for t in (part, silent))
    x = np.concatenate(vectors, axis=1)
    center, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    widths = [v.shape[1] for v in vectors]
    # Standardised, a wider vector would count for more only because it is wider.
    scale *= np.sqrt(np.repeat(widths, widths) / TEXTURE_SIZE)
    z, quiet = (x - center) / scale, (np.concatenate(others, axis=1) - center) / scale
    count = len(quiet)
    both = np.full(2 * count, _SILENCE * part.weights.sum() / (2 * max(1, count)))
    weights, bias = _logistic(
        np.concatenate([z, quiet, quiet]),
        np.concatenate([part.labels, np.zeros(count, np.int64), np.ones(count, np.int64)]),
        np.concatenate([part.weights, both]),
        strength,
    )
    parts = np.split(weights / scale, np.cumsum(widths)[:-1])
    centers = np.split(center, np.cumsum(widths)[:-1])
    # Every part is 0 for the average picture; the first carries the bias.
    biases = [-float(w @ c) for w, c in zip(parts, centers, strict=True)]
    biases[0] += bias
    return {name: Head(w, b) for name, w, b in zip(HEADS, parts, biases, strict=True)}


def _fit_regime(table: Table, values: Floats, rows: npt.NDArray[np.bool_]) -> RegimeFit:
    """Fit the fusion on some rows; on all of them when the regime has too few to learn from."""
    if rows.sum() < 40 or len(set(table.labels[rows])) < 2:
        rows = np.ones(len(rows), dtype=bool)
    part, values = balance(table.take(np.flatnonzero(rows))), values[rows]
    real = part.labels == 0
    # A signal that no real picture has gets no say: center 0, and zeros to learn from.
    known = ~np.isnan(values[real]).all(axis=0)
    values[:, ~known] = np.nan
    centers, scales = np.zeros(len(TERMS)), np.ones(len(TERMS))
    centers[known] = np.nanmean(values[real][:, known], axis=0)
    scales[known] = np.maximum(np.nanstd(values[:, known], axis=0), 1e-6)
    # The heads are parts of one model: one scale, and one weight learnt on their sum.
    heads = [TERMS.index(name) for name in HEADS]
    scales[heads] = max(float(np.nansum(values[:, heads], axis=1).std()), 1e-6)
    z = np.nan_to_num(np.clip((values - centers) / scales, -_CLIP, _CLIP))
    first, *others = heads
    z[:, first] = z[:, heads].sum(axis=1)
    learnt = np.delete(np.arange(len(TERMS)), others)
    weights = np.zeros(len(TERMS))
    weights[learnt], bias = _logistic(z[:, learnt], part.labels, part.weights, _FUSION_STRENGTH)
    weights[others] = weights[first]
    return RegimeFit(weights, centers, scales, bias)


def fit_fusion(table: Table, head_strength: float, seed: int = 0) -> Fusion:
    """Fit heads and fusion on one table; the fusion learns from out-of-fold head scores."""
    values = table.values.copy()
    everything = np.arange(len(table.labels))
    for test in folds(table, seed):
        for name, head in _fit_heads(table.take(np.setdiff1d(everything, test)), head_strength).items():
            values[test, TERMS.index(name)] = head.score(getattr(table, HEADS[name])[test])
    return Fusion(
        _fit_heads(table, head_strength),
        close_up=_fit_regime(table, values, table.close_up),
        general=_fit_regime(table, values, ~table.close_up),
    )


def predict_out_of_fold(table: Table, head_strength: float, seed: int = 1) -> Floats:
    """Return fake probabilities [N]: each picture's come from a whole fit that never saw it."""
    result = np.zeros(len(table.labels))
    everything = np.arange(len(table.labels))
    for test in folds(table, seed):
        fitted = fit_fusion(table.take(np.setdiff1d(everything, test)), head_strength)
        result[test] = 1.0 / (1.0 + np.exp(-fitted.logits(table.take(test))))
    return result


def choose_threshold(table: Table, probabilities: Floats) -> tuple[float, tuple[float, float]]:
    """Return the threshold (0.5..0.97) that lets enough real pictures pass in the worst tier, and the uncertain band.

    The band holds the 15% of files whose logits lie nearest the threshold.
    """
    real, tiers = table.labels == 0, np.array(table.tiers)
    worst = max(float(np.quantile(probabilities[real & (tiers == t)], REAL_ACCURACY)) for t in set(table.tiers))
    threshold = float(np.clip(worst, 0.5, 0.97))
    logits = np.log(np.clip(probabilities, 1e-9, 1 - 1e-9) / np.clip(1 - probabilities, 1e-9, 1))
    center = math.log(threshold / (1 - threshold))
    half = float(np.quantile(np.abs(logits - center), UNCERTAIN_SHARE))
    low, high = (1.0 / (1.0 + math.exp(-(center + sign * half))) for sign in (-1, 1))
    return threshold, (low, high)


def fit_temperature(table: Table) -> float:
    """Return the temperature that makes the zero-shot softmax most likely on the labels (Guo et al. 2017)."""
    margins = table.values[:, TERMS.index("clip")]
    signs = 2.0 * table.labels - 1.0
    grid = np.geomspace(0.25, 64.0, 97)
    losses = [float((table.weights * np.logaddexp(0.0, -signs * margins / t)).mean()) for t in grid]
    return float(grid[int(np.argmin(losses))])
