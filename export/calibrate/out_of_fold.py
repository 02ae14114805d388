"""Out-of-fold scores: every labelled image is judged by a head and a fusion fitted without its family of sources."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from veridict.forensics.arrays import Float64Array, Int64Array
from veridict.forensics.logits import sigmoid

from ..evaluate.figures import ImageOutcome
from ..files import replacing
from .data import is_head_only
from .fitting import Fusion, Table, fit_fusion
from .token_head import HeadSettings, Tokens, family_folds, fit_head, score_rows


def cross_validate(
    data: Tokens, rows: Int64Array, settings: HeadSettings, folds: int
) -> tuple[Float64Array, Int64Array]:
    """Return the head's out-of-fold score of every row of the table, and the fold it was tested in.

    ``data`` holds P images in V qualities, the tiers first; ``rows`` [P, T] are their rows in the table.
    """
    scores, numbers = np.zeros(rows.size), np.zeros(rows.size, np.int64)
    for number, test in enumerate(family_folds(data.families, folds)):
        train = data.take(np.setdiff1d(np.arange(len(rows)), test))
        head = fit_head(train, settings)
        for tier in range(rows.shape[1]):
            scores[rows[test, tier]] = score_rows(head, data.views[test, tier])
        numbers[rows[test].ravel()] = number
        print(f"fold {number + 1} of {folds}: head fitted to {len(train.labels)} images", file=sys.stderr, flush=True)
    return scores, numbers


def keep_scores(
    cache: Path | None, name: str, compute: Callable[[], tuple[Float64Array, Int64Array]]
) -> tuple[Float64Array, Int64Array]:
    """Return out-of-fold scores and folds, read from ``cache`` if they are there, else computed and kept there.

    Computing them takes ten minutes; fitting the fusion takes seconds.
    """
    path = None if cache is None else cache / f"scores-{name}.npz"
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as stored:
            return stored["scores"], stored["fold"]
    scores, fold = compute()
    if path is not None:
        with replacing(path) as partial, partial.open("wb") as stream:
            np.savez(stream, scores=scores, fold=fold)
    return scores, fold


def head_key(path: Path) -> str:
    """Return the key of the data and settings that a head file was trained with; "" where there is no file."""
    from safetensors import safe_open

    if not path.exists():
        return ""
    with safe_open(path, "np") as file:
        return str((file.metadata() or {}).get("key", ""))


def without_head_only(table: Table, fold: Int64Array, head_only: tuple[str, ...]) -> tuple[Table, Int64Array]:
    """Return table and folds without the train split of sources that begin with one of ``head_only``."""
    rows = zip(table.sources, table.splits, strict=True)
    kept = [i for i, (source, split) in enumerate(rows) if not is_head_only(source, split, head_only)]
    return table.take(kept), fold[kept]


def cross_fit(table: Table, fold: Int64Array) -> Float64Array:
    """Return the fused logit of every row by weights fitted on the other folds."""
    logits = np.zeros(len(fold))
    for number in sorted(set(fold.tolist())):
        test = np.flatnonzero(fold == number)
        logits[test] = fit_fusion(table.take(np.flatnonzero(fold != number))).logits(table.take(test))
    return logits


def outcomes(
    fusion: Fusion, bands: dict[str, tuple[float, float]], table: Table, logits: Float64Array
) -> list[ImageOutcome]:
    """Return how every row is judged by thresholds and bands, given its out-of-fold logit."""
    found = []
    for row, logit in enumerate(logits):
        kind = table.kinds[row]
        threshold = fusion.decide(kind).threshold
        probability = sigmoid(float(logit))
        low, high = bands[kind]
        found.append(
            ImageOutcome(
                label=int(table.labels[row]),
                probability=probability,
                called_fake=probability >= threshold,
                sure=not low <= probability <= high,
                tier=table.tiers[row],
                source=table.sources[row],
                family=table.families[row],
                split=table.splits[row],
                generator=table.generators[row],
                kind=kind,
            )
        )
    return found
