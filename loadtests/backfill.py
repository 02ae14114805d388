"""Checks and measures ``veridict backfill`` on drawn images: ``python -m veridict.loadtests.backfill``.

``--kills`` runs one backfill while its workers and its driver are killed, and checks that every image has exactly one
result. Without it, plain requests and a backfill take turns on one server, and their speeds are compared: images per
second by the server's own counter, and CPU time per image of server, client and Ray together, which a busy machine
changes less. Both are taken between the first and the last images, so the start of Ray does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridict.client import DetectorClient
from veridict.deploy import option_types
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.local_http import open_url
from veridict.deploy.manifest import DERIVED_FILES, default_repository, update_manifest
from veridict.deploy.own_server import own_server
from veridict.forensics import signature as sig

from .machine import ProcessTree
from .metrics_page import Repeated, sum_series
from .sample_images import encode_jpeg

#: Seconds between two readings of the server's counter.
_READING = 0.25


def draw_archive(folder: Path, images: int, side: int) -> None:
    """Draw so many different square JPEGs of ``side`` pixels."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:side, 0:side] / side
    for number in range(images):
        rng = np.random.default_rng(number)
        a, b, c = rng.uniform(1, 9, 3)
        waves = np.stack([np.sin(a * x + b * y), np.cos(b * x * c), np.sin(c * (x + y))], axis=2)
        pixels = 127 + 90 * waves + rng.normal(0, 6, waves.shape)
        (folder / f"{number:06d}.jpg").write_bytes(encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8)))


def make_small_tower(repository: Path) -> None:
    """Copy the bundled repository with a trivial image tower: all else is served as it is, and verdicts mean nothing.

    The tower averages the pixels and multiplies them with random numbers, which takes a fraction of a millisecond.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shutil.copytree(default_repository(), repository, ignore=shutil.ignore_patterns("__pycache__"))
    blocks, width = sig.INTERMEDIATES
    rng = np.random.default_rng(0)
    pixels, embedding, tokens = sig.CLIP_IMAGE.inputs[0].name, sig.EMBEDDING_OUT.name, sig.INTERMEDIATES_OUT.name
    weights = {
        "to_embedding": rng.normal(size=(3, sig.EMBEDDING)).astype(np.float32),
        "to_tokens": rng.normal(size=(3, blocks * width)).astype(np.float32),
        "shape": np.array([-1, blocks, width]),
    }
    nodes = [
        helper.make_node("Cast", [pixels], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "to_embedding"], ["raw"]),
        helper.make_node("LpNormalization", ["raw"], [embedding], axis=1),
        helper.make_node("MatMul", ["means", "to_tokens"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], [tokens]),
    ]
    sides = ["rows", sig.CLIP_SIZE, sig.CLIP_SIZE, 3]
    outputs = [
        helper.make_tensor_value_info(embedding, TensorProto.FLOAT, ["rows", sig.EMBEDDING]),
        helper.make_tensor_value_info(tokens, TensorProto.FLOAT, ["rows", blocks, width]),
    ]
    graph = helper.make_graph(
        nodes,
        "small_tower",
        [helper.make_tensor_value_info(pixels, TensorProto.UINT8, sides)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    folder = repository / sig.CLIP_IMAGE.name / "1"
    for name in ("model.onnx", *DERIVED_FILES):
        (folder / name).unlink(missing_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    update_manifest(repository)


@dataclass(frozen=True)
class Speed:
    """Images per second, and milliseconds of CPU time per image of this process and all its descendants."""

    rate: float
    cpu_ms: float


class Counter(Repeated):
    """Reads inside a ``with`` again and again how many images the server has prepared, and the CPU time of all."""

    def __init__(self, server: TritonServer) -> None:
        """Take the server, a child of this process as everything that is measured."""
        super().__init__(_READING)
        self._url, self._tree = server.metrics_url, ProcessTree(os.getpid())
        self._readings: list[tuple[float, float, float]] = []

    def look(self, seconds: float) -> None:
        """Read both once."""
        with contextlib.suppress(OSError), open_url(self._url, timeout=5) as answer:
            count = sum_series(answer.read().decode(), "nv_inference_request_success", 'model="preprocess"')
            self._readings.append((time.monotonic(), count, self._tree.cpu_seconds()))

    def speed(self, images: int, margin: int) -> Speed:
        """Return the speed between the first and the last ``margin`` of ``images``."""
        begin = self._readings[0][1]
        inside = [reading for reading in self._readings if margin <= reading[1] - begin <= images - margin]
        if len(inside) < 2:
            raise RuntimeError("too few images for a rate")
        seconds, judged, cpu = np.subtract(inside[-1], inside[0])
        return Speed(round(judged / seconds, 2), round(1e3 * cpu / judged, 2))


@contextlib.contextmanager
def running_backfill(
    archive: Path, output: Path, url: str, arguments: argparse.Namespace
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``veridict backfill`` as a process inside the ``with``; its progress goes to our standard error."""
    command = [sys.executable, "-m", "veridict.deploy.command", "backfill"]
    options = {"input": archive, "output": output, "url": url, "chunk": arguments.chunk}
    options |= {"in-flight": arguments.in_flight, "workers": arguments.workers}
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"the backfill ended with status {process.returncode} before the next kill")
        time.sleep(0.05)


def _kill_worker(driver: subprocess.Popen[bytes]) -> None:
    import psutil

    workers = [p for p in psutil.Process(driver.pid).children(recursive=True) if "MapWorker" in " ".join(p.cmdline())]
    workers[0].send_signal(signal.SIGKILL)


def run_with_kills(archive: Path, output: Path, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill a worker at a fifth of the chunks, the driver at two, a worker at three; then run to the end and check."""
    chunks = -(-arguments.images // arguments.chunk)

    def stored() -> int:
        return len(list(output.glob("results/part-*.parquet")))

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in output.glob("results/part-*.parquet")}

    began = time.monotonic()
    with running_backfill(archive, output, url, arguments) as process:
        _wait_for(process, lambda: stored() >= chunks // 5)
        _kill_worker(process)
        _wait_for(process, lambda: stored() >= 2 * chunks // 5)
    before = times()  # the driver was killed
    with running_backfill(archive, output, url, arguments) as process:
        _wait_for(process, lambda: stored() >= 3 * chunks // 5)
        _kill_worker(process)
        status = process.wait()
    after = times()
    return {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "stored_before_the_driver_was_killed": len(before) * arguments.chunk,
        "of_these_judged_again": sum(after[name] != at for name, at in before.items()) * arguments.chunk,
        **check_results(archive, output),
    }


def check_results(archive: Path, output: Path) -> dict[str, int]:
    """Compare the results with the archive, image by image."""
    import pyarrow.parquet as pq

    columns = ["source", "sha256", "verdict"]
    rows = pq.read_table(output / "results", columns=columns).to_pylist()
    wanted = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in archive.iterdir()}
    found = {row["source"] for row in rows}
    return {
        "images": len(wanted),
        "rows": len(rows),
        "duplicates": len(rows) - len(found),
        "missing": len(wanted.keys() - found),
        "of_another_file": sum(wanted.get(row["source"]) != row["sha256"] for row in rows),
        "without_verdict": sum(row["verdict"] is None for row in rows),
    }


def compare_speeds(archive: Path, folder: Path, server: TritonServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Judge the archive by plain requests and by a backfill in turns; return the speeds of every round."""
    paths = sorted(archive.iterdir())
    margin = 2 * arguments.in_flight

    def plain(number: int) -> Speed:
        with Counter(server) as counter, DetectorClient(server.url) as client:
            for result in client.detect_many(paths, concurrency=arguments.in_flight, deadline=120.0):
                if result.error:
                    raise result.error
        return counter.speed(len(paths), margin)

    def backfill(number: int) -> Speed:
        output = folder / f"output-{number}"
        with Counter(server) as counter, running_backfill(archive, output, server.url, arguments) as process:
            if process.wait():
                raise RuntimeError("the backfill has failed")
        return counter.speed(len(paths), margin)

    speeds: dict[str, list[Speed]] = {"plain": [], "backfill": []}
    for number in range(arguments.rounds):
        for kind in (plain, backfill) if number % 2 == 0 else (backfill, plain):
            speeds[kind.__name__].append(kind(number))
            print(f"round {number + 1}: {kind.__name__} {speeds[kind.__name__][-1]}", file=sys.stderr, flush=True)
    pairs = list(zip(speeds["plain"], speeds["backfill"], strict=True))
    return {
        **{name: [vars(speed) for speed in found] for name, found in speeds.items()},
        "rate_of_plain": round(statistics.median(after.rate / before.rate for before, after in pairs), 3),
        "cpu_of_plain": round(statistics.median(after.cpu_ms / before.cpu_ms for before, after in pairs), 3),
    }


@contextlib.contextmanager
def _served(folder: Path, small_tower: bool) -> Iterator[TritonServer]:
    repository = default_repository()
    if small_tower:
        repository = folder / "repository"
        make_small_tower(repository)
    with own_server(ServerSettings(repository, grpc_port=0, http_port=0, metrics_port=0)) as server:
        yield server


def main() -> int:
    """Run one check and print its figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m veridict.loadtests.backfill", description=__doc__)
    parser.add_argument("--images", type=option_types.whole(1), default=240)
    parser.add_argument("--side", type=option_types.whole(16, 4096), default=64, help="pixels of an image's side")
    parser.add_argument("--small-tower", action="store_true", help="serve a trivial image tower in place of CLIP")
    parser.add_argument("--kills", action="store_true", help="kill workers and the driver, and check the results")
    parser.add_argument("--rounds", type=option_types.whole(1), default=3, help="without --kills")
    parser.add_argument("--chunk", type=option_types.whole(1), default=256)
    parser.add_argument("--in-flight", type=option_types.whole(1), default=16)
    parser.add_argument("--workers", type=option_types.whole(1), default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_archive(folder / "archive", arguments.images, arguments.side)
        with _served(folder, arguments.small_tower) as server:
            if arguments.kills:
                figures = run_with_kills(folder / "archive", folder / "output", server.url, arguments)
            else:
                figures = compare_speeds(folder / "archive", folder, server, arguments)
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
