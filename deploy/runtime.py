"""Runs the CPU profile's ONNX graphs, in OpenVINO: one stream per core, a batch split among them.

Measured on two cores of an AMD EPYC with AVX-512 (int8 graphs, medians; ``veridict bench --networks`` repeats it):
OpenVINO takes two thirds of ONNX Runtime's time, since what is not int8 runs in bfloat16 where the processor has it;
two streams of one thread each take four fifths of the time of one inference on two threads. A graph compiled for one
number of rows takes 5 to 20% less than one compiled for any number, most for a single row, so every number has its own.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: Rows of one inference. More rows are no faster per row (they leave the cache), and every number of rows is compiled
#: apart (0.2 s and some 30 MB each).
ROWS_AT_ONCE = 4
#: Graphs above this many bytes are compiled once, for any number of rows: each copy keeps its own weights.
_LARGE = 100_000_000


@cache
def _core() -> Any:
    """Return the process's one OpenVINO core, kept until the end.

    Each core gives its thread a signal stack and takes it away when it goes; two that go in the order they came leave
    the thread with the first one's freed stack, and the next signal (a child's end, say) kills the process.
    """
    import openvino

    return openvino.Core()


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_rows(count: int, streams: int) -> list[slice]:
    """Return slices that cover ``count`` rows: of at most :data:`ROWS_AT_ONCE`, and enough to occupy the streams."""
    size = min(ROWS_AT_ONCE, max(1, -(-count // streams)))
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


class Network:
    """A graph with one input, ready to run on this machine's cores; safe to call from several threads.

    ``threads`` is the number of streams, 0 for one per core. ``precision`` is OpenVINO's hint for what the graph leaves
    in floating point: "" for bfloat16 where the processor computes in it and float32 elsewhere, or "f32" everywhere.
    """

    def __init__(self, path: Path, threads: int = 0, precision: str = "") -> None:
        """Compile the graph for every number of rows it will be run with, unless it is large, and run each."""
        self.streams = threads or usable_cores()
        properties: dict[str, object] = {
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
            # Several processes share the cores: threads pinned by each of them would all sit on the first ones.
            "ENABLE_CPU_PINNING": False,
        }
        if precision:
            properties["INFERENCE_PRECISION_HINT"] = precision
        graph = _core().read_model(path)
        sides = [side.get_length() for side in list(graph.input(0).partial_shape)[1:]]
        self._dtype = graph.input(0).element_type.to_dtype()
        self._outputs = len(graph.outputs)
        self._lock = threading.Lock()
        #: by rows, a request per stream
        self._requests: dict[int, list[Any]] = {}
        large = path.stat().st_size > _LARGE
        for rows in range(1, ROWS_AT_ONCE + 1):
            if rows == 1 or not large:
                graph.reshape([-1 if large else rows, *sides])
                compiled = _core().compile_model(graph, "CPU", properties)
                requests = [compiled.create_infer_request() for _ in range(self.streams)]
            self._requests[rows] = requests
            # Enough rows for every stream to meet this number, whichever takes which request.
            for _ in range(2):
                self(np.zeros((rows * self.streams, *sides), self._dtype))

    def __call__(self, rows: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float32], ...]:
        """Return the rows [N, ...] float32 of every output, in the graph's order, for input rows [N, ...] with N > 0.

        Raises:
            RuntimeError: the rows do not have the graph's shape.
        """
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        parts = split_rows(len(rows), self.streams)
        results: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(self._outputs)]
        with self._lock:
            for start in range(0, len(parts), self.streams):
                running = []
                for stream, part in enumerate(parts[start : start + self.streams]):
                    request = self._requests[part.stop - part.start][stream]
                    request.start_async({0: rows[part]})
                    running.append(request)
                for request in running:
                    request.wait()
                for request in running:
                    for number, found in enumerate(results):
                        found.append(request.get_output_tensor(number).data.copy())
        return tuple(np.concatenate(found) for found in results)
