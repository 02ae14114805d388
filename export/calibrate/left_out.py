"""Scores every image by a head that has not learnt from the image's family of sources, without a fit per family.

Kernel ridge regression is one linear system, so the solution without some images follows from the solution with them
(Sherman, Morrison and Woodbury). Let S a = b be the system, Z the weighted kernel rows of a family, t their weighted
targets, and J its landmarks. Without the family, the weights a solve (S - Z' Z) a = b - Z' t with a = 0 at J. With
U = [Z', columns J of the identity], D = diag(1 for each row, 0 for each landmark) and P the inverse of S,

    (U' P U - D) v = U' P (b - Z' t)    and    Z a = - the rows' part of v.

So the scores are exactly those of a fit without the family, its landmarks included. Only what uses no label is shared:
the mean, the scale and the principal components of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from veridict.forensics.arrays import Float64Array, Int64Array

from .token_head import FittedHead

#: Columns that are solved for at once: families are small, and one system per family would read the factor each time.
_COLUMNS_AT_ONCE = 1024


@dataclass(frozen=True)
class _Family:
    """The rows (image * V + quality) of a family and its landmarks."""

    rows: Int64Array
    landmarks: Int64Array

    @property
    def columns(self) -> int:
        return len(self.rows) + len(self.landmarks)


def score_left_out(fitted: FittedHead, families: Sequence[str]) -> Float64Array:
    """Return the score [N, V] of each image in each quality by the head fitted without the image's family.

    Raises:
        ValueError: there is only one family.
    """
    from scipy.linalg import solve_triangular

    if len(set(families)) < 2:
        raise ValueError("there must be at least two families of sources: each is judged by what the others teach")
    scores = np.zeros(len(fitted.components))
    for group in _groups(_families(fitted, families)):
        blocks = [_columns(fitted, family) for family in group]
        solved = solve_triangular(fitted.factor, np.concatenate(blocks, axis=1), lower=True)
        ends = np.cumsum([family.columns for family in group])
        for family, block in zip(group, np.split(solved, ends[:-1], axis=1), strict=True):
            scores[family.rows] = _scores(fitted, family, block)
    return scores.reshape(len(families), -1)


def _families(fitted: FittedHead, families: Sequence[str]) -> list[_Family]:
    views = len(fitted.components) // len(families)
    names, numbers = np.unique(np.array(families), return_inverse=True)
    of_landmarks = numbers[fitted.landmark_images]
    found = []
    for number in range(len(names)):
        images = np.flatnonzero(numbers == number)
        rows = (images[:, None] * views + np.arange(views)).ravel()
        found.append(_Family(rows, np.flatnonzero(of_landmarks == number)))
    return found


def _groups(families: Sequence[_Family]) -> Iterator[list[_Family]]:
    """Yield families together that have about ``_COLUMNS_AT_ONCE`` columns."""
    group: list[_Family] = []
    for family in families:
        group.append(family)
        if sum(member.columns for member in group) >= _COLUMNS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _columns(fitted: FittedHead, family: _Family) -> Float64Array:
    """Return U [M, rows + landmarks]."""
    kernel = fitted.head.kernel(fitted.components[family.rows]) * fitted.roots[family.rows, None]
    of_landmarks = np.zeros((len(fitted.factor), len(family.landmarks)))
    of_landmarks[family.landmarks, np.arange(len(family.landmarks))] = 1.0
    return np.concatenate([kernel.T, of_landmarks], axis=1)


def _scores(fitted: FittedHead, family: _Family, solved: Float64Array) -> Float64Array:
    """Return the scores of a family's rows; ``solved`` is the solution of L X = U for the factor L."""
    count = len(family.rows)
    roots = fitted.roots[family.rows]
    inner = solved.T @ solved
    right = solved.T @ fitted.half_solved - inner[:, :count] @ (roots * fitted.targets[family.rows])
    inner[np.arange(count), np.arange(count)] -= 1.0
    return np.asarray(-np.linalg.solve(inner, right)[:count] / roots)
