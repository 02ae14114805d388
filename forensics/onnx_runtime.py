"""ONNX Runtime: sessions on the CPU, without its telemetry.

From release 1.29 on the wheels for Linux report to Microsoft by default: an identifier of the machine, versions, and
names and hashes of the networks. They keep the reports in a database below ``~/.cache`` until they are sent. Only the
environment variable prevents that, and only before the library is loaded (onnxruntime pull request 27379).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def disable_telemetry() -> None:
    """Set ``ORT_DISABLE_TELEMETRY`` unless it is set; to be called before each import of ``onnxruntime``."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def open_session(graph: Path | bytes, threads: int = 0, optimised: bool = True) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of a graph on the CPU; ``threads`` 0 stands for one per core.

    Weights that are stored quantised are converted once, when the graph is loaded, and not in every run. Integer
    products would also round the activations, unless the graph asks for that itself. ``optimised`` False leaves out the
    fusions of ONNX Runtime's own operators.
    """
    disable_telemetry()

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
