"""Runs an ONNX graph in ONNX Runtime as :class:`~.openvino_runtime.Network` does in OpenVINO: a row per inference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from veridict.forensics.allocation import release_freed_memory
from veridict.forensics.arrays import AnyArray, Float32Array
from veridict.forensics.onnx_runtime import open_session

from .processor import usable_cores


class OnnxNetwork:
    """A graph with one input, ready to run on this machine's cores; safe to call from several threads.

    ``threads`` is the number of rows that are computed at the same time, 0 for one per core. Every row is computed by
    one thread, so a row's result does not depend on the other rows.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the graph, compute its constants and run it once."""
        self._session = open_session(path, threads=1)
        (wanted,) = self._session.get_inputs()
        self._name = wanted.name
        self._dtype: np.dtype[np.generic] = np.dtype(
            {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32}[wanted.type]
        )
        self._pool = ThreadPoolExecutor(threads or usable_cores(), thread_name_prefix="onnx-network")
        self(np.zeros((1, *wanted.shape[1:]), self._dtype))
        release_freed_memory()

    def __call__(self, rows: AnyArray) -> tuple[Float32Array, ...]:
        """Return the rows [N, ...] float32 of every output, in the graph's order, for input rows [N, ...] with N > 0.

        Raises:
            RuntimeError: the rows do not have the graph's shape.
        """
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        found = self._pool.map(self._run, (rows[i : i + 1] for i in range(len(rows))))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def _run(self, row: AnyArray) -> list[Float32Array]:
        try:
            results: list[Float32Array] = self._session.run(None, {self._name: row})
        except Exception as error:  # of a class of its own for each kind of fault, not all of them public
            raise RuntimeError(str(error)) from error
        return results
