"""Runs ONNX graphs in OpenVINO: one row per inference, one stream of one thread per core.

**A row's result does not depend on the other rows.** Every inference has exactly one row and one thread, so an image
gets the same answer alone, in a batch of any size and at any place in it, on every processor. Graphs compiled for
several rows break this on processors without byte dot products (0.5141 alone, 0.5164 in a batch).
"""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from veridict.forensics.arrays import AnyArray, Float32Array

from .processor import usable_cores

#: The precisions of :class:`Network`.
PRECISIONS = ("bf16", "int8", "int8_bf16", "f32")
#: Features of a token that share one scale in int8, so that the few very large features of a transformer do not spoil
#: the others. Measured for ViT-B/16 on an AMD EPYC: 32, 64, 128 and 192 features give 2.1, 2.4, 2.5 and 2.5 times the
#: rate of float32, and mean cosines of the embedding of 0.9998, 0.9996, 0.9991 and less.
_GROUP = 128


@cache
def _core() -> Any:
    """Return the one OpenVINO core of this process; it lives as long as the process.

    A core installs a signal stack for its thread and frees it when it is destroyed. When two cores are destroyed in the
    order of their creation, the thread keeps the freed stack of the first one, and the next signal kills the process.
    """
    import openvino

    return openvino.Core()


def fold_weights(graph: Any) -> int:
    """Replace weights stored as int8 (constant -> convert -> multiply by scales) by float constants; return how many.

    The values are the same. OpenVINO would unpack int8 weights in every inference, which costs more than it saves for
    the two hundred tokens of an image.
    """
    from openvino import op

    folded = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        convert, scale = (node.input_value(i).get_node() for i in (0, 1))
        if scale.get_type_name() == "Reshape":
            scale = scale.input_value(0).get_node()
        if convert.get_type_name() != "Convert" or scale.get_type_name() != "Constant":
            continue
        stored = convert.input_value(0).get_node()
        if stored.get_type_name() != "Constant" or stored.get_element_type().to_dtype() != np.int8:
            continue
        scales = np.asarray(scale.get_data(), dtype=np.float32).reshape(1, -1)
        replacement = op.Constant(np.ascontiguousarray(stored.get_data().astype(np.float32) * scales))
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(replacement.output(0))
        folded += 1
    return folded


def has_bfloat16() -> bool:
    """Return whether this processor computes in bfloat16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Network:
    """A graph with one input, ready to run on this machine's cores; safe to call from several threads.

    ``threads`` is the number of streams, 0 for one per core. ``precision`` is that of what the graph does not quantise
    itself: ``bf16``; ``int8`` (weights that are stored as int8, with the rest in float32); ``int8_bf16`` (the same with
    the rest in bfloat16); or ``f32``.
    """

    def __init__(self, path: Path, threads: int = 0, precision: str = "f32") -> None:
        """Compile the graph and run it once on every stream."""
        self.streams = threads or usable_cores()
        properties: dict[str, object] = {
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self.streams,
            # Several processes share the cores; if each pinned its threads, all would run on the first cores.
            "ENABLE_CPU_PINNING": False,
        }
        properties["INFERENCE_PRECISION_HINT"] = "bf16" if precision.endswith("bf16") else "f32"
        graph = _core().read_model(path)
        if precision.startswith("int8"):
            properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _GROUP
        else:
            fold_weights(graph)
        sides = [side.get_length() for side in list(graph.input(0).partial_shape)[1:]]
        self._dtype = graph.input(0).element_type.to_dtype()
        self._outputs = len(graph.outputs)
        self._lock = threading.Lock()
        graph.reshape([1, *sides])
        compiled = _core().compile_model(graph, "CPU", properties)
        self._requests = [compiled.create_infer_request() for _ in range(self.streams)]
        # Twice as many rows as streams, so that every stream runs at least one, whichever takes which request.
        self(np.zeros((2 * self.streams, *sides), self._dtype))

    def __call__(self, rows: AnyArray) -> tuple[Float32Array, ...]:
        """Return the rows [N, ...] float32 of every output, in the graph's order, for input rows [N, ...] with N > 0.

        Raises:
            RuntimeError: the rows do not have the graph's shape.
        """
        rows = np.ascontiguousarray(rows, dtype=self._dtype)
        results: list[list[Float32Array]] = [[] for _ in range(self._outputs)]
        with self._lock:
            for row in range(len(rows) + self.streams):
                request = self._requests[row % self.streams]
                if row >= self.streams and row - self.streams < len(rows):
                    request.wait()
                    for number, found in enumerate(results):
                        found.append(request.get_output_tensor(number).data.copy())
                if row < len(rows):
                    request.start_async({0: rows[row : row + 1]})
        return tuple(np.concatenate(found) for found in results)
