"""``veridict bench``: warm latency and throughput of the served pipeline beside the bare computation, in one run.

The bare loop runs the same functions and networks in this process, so the difference is what serving costs.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import LaunchError, ServerSettings, TritonServer
from veridict.deploy.repository import RepositoryError, default_repository
from veridict.export.pipeline import InProcessDetector

from .networks import measure_networks

SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080), "4000x3000": (4000, 3000)}


@dataclass(frozen=True)
class Row:
    """One measured line: what ran, images per second, and latencies in milliseconds."""

    what: str
    size: str
    concurrency: int
    images_per_second: float
    p50: float
    p95: float
    p99: float


def photograph(width: int, height: int) -> bytes:
    """Return a JPEG (quality 85) of that size with a real face in it, from scikit-image's astronaut."""
    from PIL import Image
    from skimage import data

    pixels = cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 3, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def measure(what: str, size: str, concurrency: int, call: Callable[[], object], seconds: float) -> Row:
    """Call from ``concurrency`` threads for ``seconds`` (after a short warm-up) and return the figures."""
    for _ in range(3):
        call()
    ends = time.perf_counter() + seconds

    def worker() -> list[float]:
        taken = []
        while (started := time.perf_counter()) < ends:
            call()
            taken.append(time.perf_counter() - started)
        return taken

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        latencies = sorted(t for part in [pool.submit(worker) for _ in range(concurrency)] for t in part.result())
    elapsed = time.perf_counter() - started
    cuts = [1e3 * float(np.percentile(latencies, q)) for q in (50, 95, 99)]
    return Row(what, size, concurrency, len(latencies) / elapsed, *cuts)


def format_rows(rows: list[Row]) -> str:
    """Return the Markdown table."""
    lines = [
        "| pipeline | image | concurrency | images/s | p50 ms | p95 ms | p99 ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        figures = f"{r.images_per_second:.1f} | {r.p50:.1f} | {r.p95:.1f} | {r.p99:.1f}"
        lines.append(f"| {r.what} | {r.size} | {r.concurrency} | {figures} |")
    return "\n".join(lines)


def describe_machine() -> str:
    """Return cores, processor and Python in one line, without the machine's name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds per line (default: %(default)s)")
    parser.add_argument("--sizes", nargs="*", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--concurrency", nargs="*", type=int, default=[1, 8, 16])
    parser.add_argument("--networks", action="store_true", help="time the CPU networks alone, fp32 beside int8")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the table; return 0, or 1 when the server cannot start."""
    if arguments.networks:
        table = measure_networks(default_repository(), arguments.seconds)
        command = f"veridict bench --networks --seconds {arguments.seconds:g}"
        print(f"`{command}` on {describe_machine()}, one thread\n\n{table}")
        return 0
    rows: list[Row] = []
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
    try:
        with TritonServer(settings) as server:
            config = ClientConfig(server.url, deadline=60.0)
            with DetectorClient(config=config) as client:
                bare = InProcessDetector(settings.repository)
                for size in arguments.sizes:
                    data = photograph(*SIZES[size])
                    rows.append(
                        measure("bare loop", size, 1, functools.partial(bare.detect, [data]), arguments.seconds)
                    )
                    for concurrency in arguments.concurrency:
                        call = functools.partial(client.detect, data)
                        rows.append(measure("served", size, concurrency, call, arguments.seconds))
    except (LaunchError, RepositoryError) as error:
        print(f"veridict bench: {error}", file=sys.stderr)
        return 1
    print(f"`veridict bench --seconds {arguments.seconds:g}` on {describe_machine()}\n\n{format_rows(rows)}")
    for size in arguments.sizes:
        base = next(r for r in rows if r.what == "bare loop" and r.size == size)
        served = [r for r in rows if r.what == "served" and r.size == size]
        best = max(r.images_per_second for r in served) / base.images_per_second
        alone = statistics.median([r.p50 for r in served if r.concurrency == 1] or [float("nan")]) - base.p50
        print(f"\n{size}: best served / bare loop (one image at a time) {best:.2f}; p50 overhead at 1: {alone:.1f} ms")
    return 0
