"""``veridict bench --networks``: the graphs alone, one runtime beside another, timed in turns so noise hits all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import ENGINE_FILES, INT8_GRAPH, cpu_graph
from veridict.deploy.serving.openvino_runtime import Network
from veridict.forensics import signature as sig

from ..tables import markdown

#: Calls of one run in its turn: its weights are in the caches then, as where it runs alone. With turns of a single call
#: each run would find the caches full of the others' weights, which no server does.
TURN = 10

Rows = npt.NDArray[np.generic]
Run = Callable[[Rows], Any]
CUDA = "CUDAExecutionProvider"
#: Names of the columns; the served one is what the CPU profile runs, and what the others are compared with.
FLOAT, INT8, SERVED, GPU = "ONNX Runtime fp32", "ONNX Runtime int8", "served (OpenVINO)", "ONNX Runtime CUDA fp32"


def has_cuda() -> bool:
    """Return whether the installed onnxruntime can run on a GPU."""
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def load_session(path: Path, threads: int, provider: str = "CPUExecutionProvider") -> Run:
    """Return a function that runs a graph in ONNX Runtime: rows [N, ...] in, its outputs out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Weights stored as int8 become float once, at loading, and not in every run.
    options.add_session_config_entry("session.disable_quant_qdq", "0" if path.name == INT8_GRAPH else "1")
    session = onnxruntime.InferenceSession(path, options, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: rows})


def load_runs(folder: Path, threads: int, cuda: bool) -> dict[str, Run]:
    """Return the ways to run the network of a version folder, by column name."""
    runs = {FLOAT: load_session(folder / ENGINE_FILES["cpu"], threads)}
    if (folder / INT8_GRAPH).exists():
        runs[INT8] = load_session(folder / INT8_GRAPH, threads)
    runs[SERVED] = Network(cpu_graph(folder), threads)
    if cuda:
        runs[GPU] = load_session(folder / ENGINE_FILES["cpu"], threads, CUDA)
    return runs


def blank_rows(model: sig.Model, batch: int) -> Rows:
    """Return a batch of random pixels, or of zeros for a network that takes tokens."""
    (wanted,) = model.inputs
    if wanted.dtype == "UINT8":
        return np.random.default_rng(0).integers(0, 256, (batch, *wanted.dims), dtype=np.uint8)
    return np.zeros((batch, *wanted.dims), np.int32)


def time_in_turns(runs: dict[str, Run], rows: Rows, seconds: float) -> dict[str, float]:
    """Return the median milliseconds per row of each run, called in turns of ten for ``seconds`` together."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(rows)
    ends = time.perf_counter() + seconds
    while not times[next(iter(times))] or time.perf_counter() < ends:
        for name, run in runs.items():
            for _ in range(TURN):
                started = time.perf_counter()
                run(rows)
                times[name].append((time.perf_counter() - started) * 1e3 / len(rows))
    return {name: float(np.median(taken)) for name, taken in times.items()}


def measure_networks(repository: Path, seconds: float, threads: int = 1, batches: tuple[int, ...] = (1, 8, 32)) -> str:
    """Return a Markdown table of milliseconds per image (medians) of every network on the request path.

    The last column is ONNX Runtime's fp32 over what is served.
    """
    cuda = has_cuda()
    columns = [FLOAT, INT8, SERVED, *([GPU] if cuda else [])]
    lines = []
    for model in (sig.CLIP_IMAGE, sig.FACE_CNN):
        runs = load_runs(repository / model.name / "1", threads, cuda)
        for batch in batches:
            found = time_in_turns(runs, blank_rows(model, batch), seconds)
            figures = [f"{found[c]:.2f}" if c in found else "-" for c in columns]
            lines.append((model.name, str(batch), *figures, f"{found[FLOAT] / found[SERVED]:.2f}"))
    return markdown(("network", "batch", *(f"{c} ms/image" for c in columns), "fp32 / served"), lines)
