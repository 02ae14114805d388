"""``veridict bench --networks``: times the graphs alone in each runtime, in turn, so that noise affects all alike."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from veridict.deploy.manifest import ENGINE_FILES, INT8_GRAPH, cpu_graph
from veridict.deploy.serving.cpu_runtime import load_network
from veridict.export.pipeline import Run
from veridict.forensics import signature as sig
from veridict.forensics.arrays import AnyArray

from ..tables import markdown_table
from .onnx_session import has_cuda, load_session

#: Consecutive calls of one runtime in its turn. They keep its weights in the caches, as where it runs alone; with turns
#: of one call each runtime would find the caches full of the others' weights, which happens on no server.
CALLS_PER_TURN = 10
#: Names of the columns. ``SERVED`` is the graph and runtime of the CPU profile; the others are compared with it.
FLOAT, INT8, SERVED, GPU = "ONNX Runtime fp32", "ONNX Runtime int8", "served (OpenVINO)", "ONNX Runtime CUDA fp32"


def load_runtimes(folder: Path, threads: int, cuda: bool) -> dict[str, Run]:
    """Return the functions that run the network of a version folder, one per runtime, by column name."""
    runs: dict[str, Run] = {FLOAT: load_session(folder / ENGINE_FILES["cpu"], threads)}
    if (folder / INT8_GRAPH).exists():
        runs[INT8] = load_session(folder / INT8_GRAPH, threads)
    runs[SERVED] = load_network(cpu_graph(folder), threads)
    if cuda:
        runs[GPU] = load_session(folder / ENGINE_FILES["cpu"], threads, cuda=True)
    return runs


def sample_rows(model: sig.Model, batch: int) -> AnyArray:
    """Return a batch of random pixels uint8 [N, ...], or of zeros int32 for a network that takes tokens."""
    (tensor,) = model.inputs
    if tensor.dtype == "UINT8":
        return np.random.default_rng(0).integers(0, 256, (batch, *tensor.dims), dtype=np.uint8)
    return np.zeros((batch, *tensor.dims), np.int32)


def time_interleaved(
    runs: dict[str, Run], rows: AnyArray, seconds: float, calls: int = CALLS_PER_TURN, turns: int = 1
) -> dict[str, float]:
    """Return the median milliseconds per row of each run.

    The runs take turns of ``calls`` calls for ``seconds`` in all, and for at least ``turns`` turns each.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(rows)
    ends, done = time.perf_counter() + seconds, 0
    while done < turns or time.perf_counter() < ends:
        for name, run in runs.items():
            for _ in range(calls):
                started = time.perf_counter()
                run(rows)
                times[name].append((time.perf_counter() - started) * 1e3 / len(rows))
        done += 1
    return {name: float(np.median(taken)) for name, taken in times.items()}


def measure_networks(repository: Path, seconds: float, threads: int = 1, batches: tuple[int, ...] = (1, 8, 32)) -> str:
    """Return a Markdown table of median milliseconds per image of the image encoder and the face CNN.

    The last column is ONNX Runtime's fp32 time over that of the served runtime.
    """
    cuda = has_cuda()
    columns = [FLOAT, INT8, SERVED, *([GPU] if cuda else [])]
    lines = []
    for model in (sig.CLIP_IMAGE, sig.FACE_CNN):
        runs = load_runtimes(repository / model.name / "1", threads, cuda)
        for batch in batches:
            found = time_interleaved(runs, sample_rows(model, batch), seconds)
            figures = [f"{found[c]:.2f}" if c in found else "-" for c in columns]
            lines.append((model.name, str(batch), *figures, f"{found[FLOAT] / found[SERVED]:.2f}"))
    return markdown_table(("network", "batch", *(f"{c} ms/image" for c in columns), "fp32 / served"), lines)
