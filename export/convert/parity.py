"""The parity gate: an exported graph or engine is installed only if it computes what its source computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veridict.forensics import signature as sig
from veridict.forensics.arrays import AnyArray, Float32Array, Int64Array
from veridict.forensics.onnx_runtime import open_session

#: Precision -> the lowest cosine allowed between a row of the artefact and the same row of its source.
LOWEST_COSINE = {"fp32": 0.999, "fp16": 0.999, "fp8": 0.99, "int8": 0.99, "w7a8": 0.98}


class ParityError(RuntimeError):
    """An artefact does not compute what its source computes; it is not installed."""


@dataclass(frozen=True)
class Parity:
    """How close an artefact is to its source on the same inputs.

    ``agreement`` is the share of inputs with the same decision: the sign of a logit, or the nearest other input by
    embedding. 1 - agreement bounds the accuracy that the artefact can lose on such inputs.
    """

    model: str
    output: str
    precision: str
    rows: int
    lowest_cosine: float
    largest_difference: float
    agreement: float


def run_graph(
    path: Path, model: sig.Model, rows: AnyArray, batch: int = 16, optimised: bool = True
) -> list[Float32Array]:
    """Return every output's rows [N, D] float32 of a graph on ONNX Runtime's CPU provider.

    ``optimised`` runs the graph as it is served. Half-precision graphs, which are for TensorRT, need False: ONNX
    Runtime 1.32 crashes when it fuses the attention of ViT-B/32 for the CPU.
    """
    (wanted,) = model.inputs
    session = open_session(path, optimised=optimised)
    names = [produced.name for produced in model.outputs]
    parts = [session.run(names, {wanted.name: rows[i : i + batch]}) for i in range(0, len(rows), batch)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def compare(
    model: sig.Model, precision: str, expected: Sequence[Float32Array], actual: Sequence[Float32Array]
) -> list[Parity]:
    """Return how close each output of an artefact is to that of its source; both are in the signature's order.

    Raises:
        ParityError: the shapes differ or the lowest cosine is below that of the precision.
    """
    return [
        compare_rows(model.name, tensor.name, precision, a, b)
        for tensor, a, b in zip(model.outputs, expected, actual, strict=True)
    ]


def compare_rows(model: str, output: str, precision: str, expected: Float32Array, actual: Float32Array) -> Parity:
    """Return how close ``actual`` [N, D] or [N, K, W] is to ``expected``.

    Single values (D = 1) are compared as one row of length N; [N, K, W] is compared as N * K rows of length W.

    Raises:
        ParityError: as :func:`compare`.
    """
    if actual.shape != expected.shape:
        shapes = f"{actual.shape}, its source {expected.shape}"
        raise ParityError(f"{model}: {output} of the {precision} graph gives {shapes}")
    a, b = (x.reshape(1, -1) if x.shape[1:] == (1,) else x.reshape(-1, x.shape[-1]) for x in (expected, actual))
    cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    parity = Parity(
        model=model,
        output=output,
        precision=precision,
        rows=len(expected),
        lowest_cosine=float(cosine.min()),
        largest_difference=float(np.abs(a - b).max()),
        agreement=float(np.mean(_decisions(expected) == _decisions(actual))),
    )
    lowest = LOWEST_COSINE[precision]
    if not parity.lowest_cosine >= lowest:
        raise ParityError(
            f"{model}: cosine {parity.lowest_cosine:.5f} of {output} in the {precision} graph is below {lowest}"
        )
    return parity


def _decisions(rows: Float32Array) -> Int64Array:
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] == 1:
        return (rows[:, 0] > 0).astype(np.int64)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)
