"""``veridict bench --networks``: the CPU graphs alone, fp32 beside int8, timed in turns so that noise hits both."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.repository import ENGINE_FILES, INT8_GRAPH
from veridict.forensics import signature as sig


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def measure_networks(repository: Path, seconds: float, threads: int = 1, batches: tuple[int, ...] = (1, 8, 32)) -> str:
    """Return a Markdown table of milliseconds per image (medians) of every quantised network, and the ratio."""
    lines = ["| network | batch | fp32 ms/image | int8 ms/image | ratio |", "| --- | --- | --- | --- | --- |"]
    rng = np.random.default_rng(0)
    for name in sig.ENGINES:
        folder = repository / name / "1"
        if not (folder / INT8_GRAPH).exists():
            continue
        sessions = [_session(folder / file, threads) for file in (ENGINE_FILES["cpu"], INT8_GRAPH)]
        (wanted,) = sig.MODELS[name].inputs
        for batch in batches:
            rows = {wanted.name: rng.integers(0, 256, (batch, *wanted.dims), dtype=np.uint8)}
            times: list[list[float]] = [[], []]
            for session in sessions:
                session.run(None, rows)
            ends = time.perf_counter() + seconds
            while time.perf_counter() < ends:
                for session, taken in zip(sessions, times, strict=True):
                    started = time.perf_counter()
                    session.run(None, rows)
                    taken.append((time.perf_counter() - started) * 1e3 / batch)
            fp32, int8 = (float(np.median(taken)) for taken in times)
            lines.append(f"| {name} | {batch} | {fp32:.2f} | {int8:.2f} | {fp32 / int8:.2f} |")
    return "\n".join(lines)
