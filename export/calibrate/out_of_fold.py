"""Out-of-fold verdicts: every labelled image is judged by a head and a fusion fitted without its family of sources.

The head leaves out one family at a time (:mod:`.left_out`). The fusion, which has few weights, leaves out a fold of
families.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from veridict.forensics.arrays import Float64Array, Int64Array
from veridict.forensics.logits import sigmoid

from ..evaluate.figures import ImageOutcome
from ..files import replacing
from .data import is_head_only
from .fitting import Fusion, Table, fit_fusion


def family_folds(families: Sequence[str], count: int = 5, seed: int = 0) -> Int64Array:
    """Return the fold [N] of each image; a family is never in two of them.

    Raises:
        ValueError: there are fewer families than folds.
    """
    from sklearn.model_selection import GroupKFold

    numbers = np.zeros(len(families), np.int64)
    splitter = GroupKFold(count, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(families)), groups=np.array(families))):
        numbers[test] = number
    return numbers


def keep_scores(cache: Path | None, name: str, compute: Callable[[], Float64Array]) -> Float64Array:
    """Return out-of-fold scores, read from ``cache`` if they are there, else computed and kept there.

    Computing them takes minutes; fitting the fusion takes seconds.
    """
    path = None if cache is None else cache / f"scores-{name}.npy"
    if path is not None and path.exists():
        return np.asarray(np.load(path, allow_pickle=False))
    scores = compute()
    if path is not None:
        with replacing(path) as partial, partial.open("wb") as stream:
            np.save(stream, scores)
    return scores


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
    fusion: Fusion, bands: dict[str, tuple[float, float]], undecided_face: float, table: Table, logits: Float64Array
) -> list[ImageOutcome]:
    """Return how every row is judged by thresholds, bands and undecided faces, given its out-of-fold logit."""
    found = []
    for row, logit in enumerate(logits):
        kind = table.kinds[row]
        threshold = fusion.decide(kind).threshold
        probability = sigmoid(float(logit))
        called_fake = probability >= threshold
        low, high = bands[kind]
        face = sigmoid(table.values[row].get("face", -math.inf))
        found.append(
            ImageOutcome(
                label=int(table.labels[row]),
                probability=probability,
                called_fake=called_fake,
                sure=not low <= probability <= high and (called_fake or face < undecided_face),
                tier=table.tiers[row],
                source=table.sources[row],
                family=table.families[row],
                split=table.splits[row],
                generator=table.generators[row],
                kind=kind,
            )
        )
    return found
