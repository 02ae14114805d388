"""``veridict bench-explain``: seconds per method, whether maps point at a planted patch, what a busy worker costs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from veridict.deploy.launcher import LaunchError, ServerSettings
from veridict.deploy.own_server import own_server
from veridict.deploy.repository import RepositoryError
from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.methods import METHODS, run_method
from veridict.explain.models import Models, set_threads
from veridict.explain.subject import read_subject

from ..machine import describe_machine
from ..sample_images import encode_jpeg, photograph
from .beside_worker import measure_verdicts
from .pointing_game import KINDS, Kind, Outcome, play_turn, table

#: The four methods the time limit of one face is about.
CORE = ("saliency", "integrated_gradients", "shap", "lime")
#: Pictures whose explanations keep the worker busy; more than it can finish while it is watched.
_WORKLOAD = 60
_SEED = 17


def face_pictures(folder: Path | None, count: int) -> list[bytes]:
    """Return ``count`` encoded pictures with a face: files of a folder, or variations of scikit-image's astronaut."""
    if folder is not None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
        found: list[bytes] = []
        for path in files:
            data = path.read_bytes()
            if read_subject(data).boxes:
                found.append(data)
            if len(found) == count:
                return found
        raise ValueError(f"only {len(found)} pictures with a face in {folder}")
    from skimage import data as pictures

    astronaut, rng = pictures.astronaut()[:400, 50:450], np.random.default_rng(5)
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


def time_methods(pictures: list[bytes], names: list[str], models: Models) -> str:
    """Return a Markdown table of seconds and quality per method at default settings, the first call apart."""
    lines = ["| method | first call, s | median s | quality (median) |", "| --- | --- | --- | --- |"]
    core = 0.0
    for name in names:
        results = [run_method(name, read_subject(data), models, Budget()) for data in pictures]
        later = statistics.median(r.seconds for r in results[1:])
        core += later if name in CORE else 0.0
        figures = {key: statistics.median(r.quality[key] for r in results) for key in results[0].quality}
        shown = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
        lines.append(f"| {name} | {results[0].seconds:.1f} | {later:.1f} | {shown or '-'} |")
        print(lines[-1], file=sys.stderr, flush=True)
    lines.append(f"\nSaliency, integrated gradients, SHAP and LIME of one face together: {core:.1f} s.")
    return "\n".join(lines)


_models: Models


def _start_player(url: str) -> None:
    global _models
    set_threads(1)
    _models = Models(url=url)


def _play(data: bytes, kind: Kind, seed: int, names: Sequence[str], budget: Budget) -> Outcome:
    return play_turn(data, kind, seed, names, _models, budget)


def play(pictures: Sequence[bytes], names: Sequence[str], url: str, budget: Budget, processes: int) -> str:
    """Play the pointing game with both kinds of square in every picture, in ``processes`` processes; return its table.

    Raises:
        ExplainError: a method failed.
    """
    turns = [(data, kind, _SEED + number) for number, data in enumerate(pictures) for kind in KINDS]
    outcomes = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start_player, (url,)) as pool:
        waiting = [pool.submit(_play, *turn, names, budget) for turn in turns]
        try:
            for number, job in enumerate(as_completed(waiting)):
                outcomes.append(job.result())
                print(f"pointing game {number + 1}/{len(turns)}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return table(outcomes, names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--images", type=int, default=50, help="pictures of the pointing game (default: %(default)s)")
    parser.add_argument(
        "--faces", type=Path, help="folder of real faces (default: variations of scikit-image's astronaut)"
    )
    parser.add_argument("--repeats", type=int, default=4, help="timed calls per method (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="gradients per map of the pointing game")
    parser.add_argument("--samples", type=int, default=150, help="perturbed pictures per map of the pointing game")
    parser.add_argument(
        "--rounds", type=int, default=12, help="rounds of verdict latency (default: %(default)s); 0 leaves them out"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one block (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads (default: half the cores)")


def _check(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments, or an empty string."""
    if arguments.repeats < 2 or arguments.images < 0 or arguments.rounds < 0:
        return "--repeats must be at least 2, --images and --rounds not negative"
    if arguments.seconds < 0.5:
        return "--seconds must be at least 0.5: a block needs answers enough for a 95th percentile"
    if arguments.faces is not None and not arguments.faces.is_dir():
        return f"no such folder: {arguments.faces}"
    return ""


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the tables; return 0, or 1 when the server or a method fails."""
    if wrong := _check(arguments):
        print(f"veridict bench-explain: {wrong}", file=sys.stderr)
        return 2
    set_threads(arguments.threads)
    names = list(METHODS)
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
    parts = []
    try:
        with own_server(settings) as server:
            models = Models(url=server.url)
            pictures = face_pictures(arguments.faces, max(arguments.images, arguments.repeats))
            versions = json.dumps(models.versions)
            parts.append(f"Machine: {describe_machine()}. Models: {versions}.")
            parts.append("## Seconds\n\n" + time_methods(pictures[: arguments.repeats], names, models))
            if arguments.images:
                budget = Budget(steps=arguments.steps, samples=arguments.samples)
                processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
                found = play(pictures[: arguments.images], names, server.url, budget, processes)
                head = f"## Pointing game\n\nBudget: {budget.steps} steps, {budget.samples} samples.\n\n"
                parts.append(head + found)
            if arguments.rounds:
                found = measure_verdicts(
                    server.url,
                    photograph(640, 480),
                    face_pictures(None, _WORKLOAD),
                    CORE,
                    arguments.rounds,
                    arguments.seconds,
                )
                parts.append("## Verdict latency beside one worker\n\n" + found)
    except (LaunchError, RepositoryError, ExplainError, ValueError) as error:
        print(f"veridict bench-explain: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(parts))
    return 0
