"""Fits the head on CLIP's class tokens; :mod:`veridict.forensics.token_head` runs it.

The head is kernel ridge regression with a Gaussian kernel (Schoelkopf & Smola 2002) on the principal components of the
standardised tokens, with the Nystroem approximation (Williams & Seeger 2001): the answer is a weighted sum over
landmarks, which are some of the training images. The fit is one linear system, so it has no learning rate and no random
initial weights.

Rules of the fit: the weight of a source is the square root of its size, for real and fake alike. Every image is used as
it is and in degraded copies, which count together as one. :mod:`.left_out` scores images by the fit without their
family of sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from veridict.forensics.arrays import Float16Array, Float32Array, Float64Array, FloatArray, Int64Array
from veridict.forensics.token_head import TokenHead, standardise, to_bytes, to_tensors, unit_rows

from ..files import replacing

#: Rows that are computed at once.
_ROWS_AT_ONCE = 4096
#: Most rows from which the principal components are computed.
_COMPONENT_ROWS = 16384


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fitted; the defaults are those of the bundled one.

    ``components`` and ``landmarks`` bound their numbers. ``width``: the kernel is exp(-width * d / v) for a squared
    distance d between two images and the total variance v of the images. ``ridge``: the penalty of kernel ridge
    regression, where every image weighs 1 on average.
    """

    components: int = 512
    landmarks: int = 12288
    width: float = 1.4
    ridge: float = 0.1


@dataclass(frozen=True)
class Tokens:
    """Training rows: class tokens [N, V, K, W] float16 of unit length in V qualities, labels [N], sources, families."""

    views: Float16Array
    labels: Int64Array
    sources: tuple[str, ...]
    families: tuple[str, ...]


def source_weights(labels: Int64Array, sources: Sequence[str]) -> Float64Array:
    """Return weights [N] that sum to 1 per class.

    The weight of an image is proportional to the inverse root of the number of images of its source and label.
    """
    keys = list(zip(sources, labels.tolist(), strict=True))
    counts = Counter(keys)
    weights = np.array([counts[key] ** -0.5 for key in keys])
    for label in (0, 1):
        rows = labels == label
        weights[rows] /= max(weights[rows].sum(), 1e-12)
    return weights


def standardisation(data: Tokens) -> tuple[Float32Array, Float32Array]:
    """Return mean and deviation [K, W] of the tokens over images and views."""
    flat = data.views.reshape(-1, *data.views.shape[2:])
    mean = flat.mean(axis=0, dtype=np.float64)
    square = np.zeros_like(mean)
    for start in range(0, len(flat), _ROWS_AT_ONCE):  # in chunks: a float64 copy of everything needs too much memory
        square += np.square(flat[start : start + _ROWS_AT_ONCE].astype(np.float32) - mean).sum(axis=0)
    return mean.astype(np.float32), np.sqrt(square / len(flat) + 1e-12).astype(np.float32) + np.float32(1e-6)


@dataclass(frozen=True)
class FittedHead:
    """A head fitted to N images in V qualities, and the linear system that its M weights solve.

    ``components`` [N * V, R]: every image in every quality. ``roots`` [N * V]: the square roots of their weights in the
    fit. ``targets`` [N * V]: +1 for fake and -1 for real. ``landmark_images`` [M]: the image that each landmark comes
    from. ``factor`` [M, M]: the lower Cholesky factor of the system. ``half_solved`` [M]: the solution L y = b for this
    factor L and the right side b of the system.
    """

    head: TokenHead
    components: Float32Array
    roots: Float64Array
    targets: Float64Array
    landmark_images: Int64Array
    factor: Float64Array
    half_solved: Float64Array


def fit_head(data: Tokens, settings: HeadSettings = HeadSettings(), seed: int = 0) -> FittedHead:
    """Fit a head to +1 for fake and -1 for real.

    Principal components and landmarks are rounded to 8 bits before the weights are fitted, so that the stored head is
    exactly the fitted one: both are choices of the fit, and any others near them serve as well.
    """
    from scipy.linalg import cholesky, solve_triangular

    rng = np.random.default_rng(seed)
    count, views = data.views.shape[:2]
    mean, scale = standardisation(data)
    flat = data.views.reshape(count * views, *data.views.shape[2:])
    rows = standardise(flat[rng.permutation(len(flat))[:_COMPONENT_ROWS]], mean, scale)
    components = _rounded(_principal_components(rows, settings.components, seed))
    variance = float((rows @ components.T).var(axis=0).sum())
    reduced = in_parts(flat, lambda part: standardise(part, mean, scale) @ components.T)
    # Landmarks are files as they are (the first quality): degraded ones cost 0.003 AUC on sources left out.
    images = rng.permutation(count)[: settings.landmarks]
    landmarks = _rounded(reduced[images * views].T).T
    nothing = np.zeros(len(landmarks), np.float32)
    blank = TokenHead(mean, scale, components, landmarks, nothing, settings.width / variance)
    targets = np.repeat(np.where(data.labels == 1, 1.0, -1.0), views)
    roots = np.sqrt(np.repeat(source_weights(data.labels, data.sources) * count / 2 / views, views))
    system = settings.ridge * blank.kernel(landmarks).astype(np.float64)
    right = np.zeros(len(landmarks))
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        root = roots[part].astype(np.float32)
        values = blank.kernel(reduced[part]) * root[:, None]
        system += values.T @ values
        right += values.T @ (root * targets[part]).astype(np.float32)
    system[np.diag_indices_from(system)] += 1e-7 * np.trace(system)  # landmarks may coincide
    factor = cholesky(system, lower=True, overwrite_a=True)
    half_solved = solve_triangular(factor, right, lower=True)
    weights = solve_triangular(factor, half_solved, lower=True, trans="T")
    head = replace(blank, weights=weights.astype(np.float32))
    return FittedHead(head, reduced, roots, targets, images, factor, half_solved)


def in_parts(rows: Float16Array, compute: Callable[[Float16Array], Float32Array]) -> Float32Array:
    """Return ``compute`` of all rows; a part of them at once, because memory would not hold all in single precision."""
    return np.concatenate(
        [compute(rows[start : start + _ROWS_AT_ONCE]) for start in range(0, len(rows), _ROWS_AT_ONCE)]
    )


def _principal_components(rows: Float32Array, count: int, seed: int) -> Float32Array:
    """Return orthonormal directions [R, D] of the largest variance of rows [N, D], R <= ``count``."""
    from sklearn.utils.extmath import randomized_svd

    count = min(count, *rows.shape)
    return np.asarray(randomized_svd(rows, count, random_state=seed)[2], dtype=np.float32)


def _rounded(rows: Float32Array) -> Float32Array:
    """Return rows [R, D] as they are read again from a file."""
    codes, steps = to_bytes(rows)
    return np.asarray(codes * steps[:, None], dtype=np.float32)


def score_rows(head: TokenHead, tokens: Float16Array) -> Float32Array:
    """Return the head's scores [N] of tokens [N, K, W]."""
    return in_parts(tokens, lambda part: head.score(part)[0])


def save_head(path: Path, head: TokenHead, metadata: dict[str, str]) -> None:
    """Write the head as safetensors, atomically."""
    from safetensors.numpy import save

    with replacing(path) as partial:
        partial.write_bytes(save(to_tensors(head), metadata))  # save_file would hide the file from other users


def to_views(tokens: Sequence[FloatArray]) -> Float16Array:
    """Return tokens [K, W] of many images as rows [N, K, W] of unit length in half precision."""
    return np.stack([unit_rows(row).astype(np.float16) for row in tokens])
