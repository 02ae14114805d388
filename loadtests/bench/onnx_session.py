"""Runs ONNX graphs in ONNX Runtime: what the benchmark compares our own runtime with."""

from __future__ import annotations

from pathlib import Path

from veridict.deploy.manifest import INT8_GRAPH
from veridict.export.pipeline import Run
from veridict.forensics.onnx_runtime import disable_telemetry

_CUDA = "CUDAExecutionProvider"


def has_cuda() -> bool:
    """Return whether the installed onnxruntime can run on a GPU."""
    disable_telemetry()

    import onnxruntime

    return _CUDA in onnxruntime.get_available_providers()


def load_session(path: Path, threads: int, cuda: bool = False) -> Run:
    """Return a function that runs the graph on ``threads`` CPU threads, or with ``cuda`` on the GPU if there is one."""
    disable_telemetry()

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Converts weights stored as int8 to float once, when the graph is loaded, instead of in every run.
    options.add_session_config_entry("session.disable_quant_qdq", "0" if path.name == INT8_GRAPH else "1")
    providers = [*([_CUDA] if cuda and has_cuda() else []), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    name = session.get_inputs()[0].name
    return lambda rows: tuple(session.run(None, {name: rows}))
