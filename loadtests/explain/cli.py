"""``veridict bench-explain``: seconds per method, the pointing game, and verdict latency next to a busy worker."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from veridict.client import ClientConfig
from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError, ServerSettings
from veridict.deploy.manifest import RepositoryError
from veridict.deploy.own_server import own_server
from veridict.deploy.serving.processor import usable_cores
from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.methods import METHODS, run_method
from veridict.explain.models import Models, set_threads
from veridict.explain.subject import read_subject

from ..machine import describe_machine
from ..sample_images import encode_jpeg, photograph
from ..tables import markdown_table
from .pointing_game import MANIPULATIONS, Manipulation, TrialResult, pointing_game_table, run_trial
from .verdict_latency import measure_verdict_latency

#: The methods whose total time per face is reported; the worker runs them in the latency benchmark.
CORE_METHODS = ("saliency", "integrated_gradients", "shap", "lime")
#: Images in the worker's queue: more than it can explain while the benchmark runs.
_QUEUED_IMAGES = 60
_SEED = 17


def face_images(folder: Path | None, count: int) -> list[bytes]:
    """Return ``count`` encoded images with a face: files of a folder, or variations of scikit-image's astronaut.

    Raises:
        ValueError: the folder holds fewer images with a face.
    """
    if folder is not None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
        found: list[bytes] = []
        for path in files:
            data = path.read_bytes()
            if read_subject(data).boxes:
                found.append(data)
            if len(found) == count:
                return found
        raise ValueError(f"only {len(found)} images with a face in {folder}")
    from skimage import data as skimage_data

    astronaut, rng = skimage_data.astronaut()[:400, 50:450], np.random.default_rng(5)
    varied: list[bytes] = []
    while len(varied) < count:
        side = int(rng.integers(300, 400))
        top, left = rng.integers(0, 401 - side, 2)
        part = astronaut[top : top + side, left : left + side]
        part = part[:, ::-1] if rng.random() < 0.5 else part
        toned = np.clip(part * rng.uniform(0.8, 1.15) + rng.normal(0, 2, part.shape), 0, 255).astype(np.uint8)
        encoded = encode_jpeg(toned, int(rng.integers(80, 96)))
        if read_subject(encoded).boxes:
            varied.append(encoded)
    return varied


def time_methods(images: list[bytes], names: list[str], models: Models) -> str:
    """Return a Markdown table of seconds and quality per method at the default budget; the first call is separate."""
    rows = []
    core_seconds = 0.0
    for name in names:
        results = [run_method(name, read_subject(data), models, Budget()) for data in images]
        later = statistics.median(r.seconds for r in results[1:])
        core_seconds += later if name in CORE_METHODS else 0.0
        medians = {key: statistics.median(r.quality[key] for r in results) for key in results[0].quality}
        quality = ", ".join(f"{key} {value:.3g}" for key, value in medians.items())
        rows.append((name, f"{results[0].seconds:.1f}", f"{later:.1f}", quality or "-"))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    table = markdown_table(("method", "first call, s", "median s", "quality (median)"), rows)
    return f"{table}\n\nSaliency, integrated gradients, SHAP and LIME of one face together: {core_seconds:.1f} s."


_models: Models


def _start_process(url: str) -> None:
    """Load the models once per process of the pointing game."""
    global _models
    set_threads(1)
    _models = Models(server=ClientConfig(url))


def _run_trial(data: bytes, manipulation: Manipulation, seed: int, names: Sequence[str], budget: Budget) -> TrialResult:
    return run_trial(data, manipulation, seed, names, _models, budget)


def run_pointing_game(images: Sequence[bytes], names: Sequence[str], url: str, budget: Budget, processes: int) -> str:
    """Run the pointing game with both manipulations of every image in ``processes`` processes; return its table.

    Raises:
        ExplainError: a method failed.
    """
    trials = [
        (data, manipulation, _SEED + number) for number, data in enumerate(images) for manipulation in MANIPULATIONS
    ]
    results = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_process, (url,)) as pool:
        futures = [pool.submit(_run_trial, *trial, names, budget) for trial in trials]
        try:
            for number, future in enumerate(as_completed(futures)):
                results.append(future.result())
                print(f"pointing game {number + 1}/{len(trials)}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pointing_game_table(results, names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--images",
        type=option_types.whole(0),
        default=50,
        help="images of the pointing game (default: %(default)s); 0 leaves it out",
    )
    parser.add_argument(
        "--faces", type=Path, help="folder of real faces (default: variations of scikit-image's astronaut)"
    )
    parser.add_argument(
        "--repeats", type=option_types.whole(2, 10000), default=4, help="timed calls per method (default: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=option_types.whole(8, 4096),
        default=24,
        help="gradients per map of the pointing game (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=option_types.whole(20, 20000),
        default=150,
        help="perturbed images per map of the pointing game (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=option_types.whole(0, 10000),
        default=12,
        help="rounds of verdict latency (default: %(default)s); 0 leaves it out",
    )
    parser.add_argument(
        "--seconds",
        type=option_types.real(0.5, 3600.0),
        default=2.0,
        help="length of one block; a 95th percentile needs enough answers (default: %(default)s)",
    )
    parser.add_argument("--threads", type=option_types.whole(1, 1024), help="torch threads (default: half the cores)")


def find_problem(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments; "" when they are valid."""
    if arguments.faces is not None and not arguments.faces.is_dir():
        return f"no such folder: {arguments.faces}"
    return ""


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the tables; return 0, 1 when the server or a method fails, 2 for invalid arguments."""
    if problem := find_problem(arguments):
        print(f"veridict bench-explain: {problem}", file=sys.stderr)
        return 2
    set_threads(arguments.threads)
    names = list(METHODS)
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
    parts = []
    try:
        with own_server(settings) as server:
            models = Models(server=ClientConfig(server.url))
            images = face_images(arguments.faces, max(arguments.images, arguments.repeats))
            versions = json.dumps(models.versions)
            parts.append(f"Machine: {describe_machine()}. Models: {versions}.")
            parts.append("## Seconds\n\n" + time_methods(images[: arguments.repeats], names, models))
            if arguments.images:
                budget = Budget(steps=arguments.steps, samples=arguments.samples)
                table = run_pointing_game(images[: arguments.images], names, server.url, budget, usable_cores())
                head = f"## Pointing game\n\nBudget: {budget.steps} steps, {budget.samples} samples.\n\n"
                parts.append(head + table)
            if arguments.rounds:
                table = measure_verdict_latency(
                    server.url,
                    photograph(640, 480),
                    face_images(None, _QUEUED_IMAGES),
                    CORE_METHODS,
                    arguments.rounds,
                    arguments.seconds,
                )
                parts.append("## Verdict latency next to one worker\n\n" + table)
    except (LaunchError, RepositoryError, ExplainError, ValueError) as error:
        print(f"veridict bench-explain: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(parts))
    return 0
