"""``veridict bench-explain``: seconds per method, whether maps point at a planted patch, and what a busy worker costs.

The pointing game (Zhang et al. 2018) is played on pictures of faces with one manipulated square: a map wins where its
strongest vote for fake lies inside the square. A blind map wins as often as the square's share of the explained area.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import LaunchError, ServerSettings, TritonServer
from veridict.deploy.repository import RepositoryError
from veridict.explain.attribution import Attribution, Budget
from veridict.explain.client import ExplanationClient
from veridict.explain.errors import ExplainError
from veridict.explain.methods import METHODS, run_method
from veridict.explain.models import Models, set_threads
from veridict.explain.render import scale
from veridict.explain.settings import QueueSettings
from veridict.explain.subject import Subject, read_subject

from .bench import describe_machine, photograph

Pixels = npt.NDArray[np.uint8]
#: The four methods the time limit of one face is about.
CORE = ("saliency", "integrated_gradients", "shap", "lime")
#: The patch is smoother than its surroundings, so these two maps point with their lowest value.
LOW_POINTS = frozenset({"noise", "sharpness"})
_SHARE = 1 / 3


@dataclass(frozen=True)
class Game:
    """One picture of the pointing game: the subject, the square [x, y, side] in it, and the clean picture."""

    subject: Subject
    square: tuple[int, int, int]
    clean: Subject


def encode_jpeg(pixels: Pixels, quality: int = 92) -> bytes:
    """Return a JPEG file of RGB pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


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


def plant(data: bytes, rng: np.random.Generator) -> Game:
    """Manipulate a square a third as wide as the face crop: mirrored, resampled and toned, the steps of a face swap."""
    clean = read_subject(data)
    x, y, side, _ = clean.face_region
    patch = max(8, round(side * _SHARE))
    left, top = (int(start + rng.integers(side // 8, side - patch - side // 8 + 1)) for start in (x, y))
    pixels = clean.image.pixels.copy()
    part = np.ascontiguousarray(pixels[top : top + patch, left : left + patch][:, ::-1])
    small = cv2.resize(part, (max(4, patch * 2 // 5),) * 2, interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (patch, patch), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    pixels[top : top + patch, left : left + patch] = np.clip(soft * [1.06, 1.0, 0.95] + 4, 0, 255).astype(np.uint8)
    subject = read_subject(encode_jpeg(pixels))
    subject.__dict__["boxes"] = clean.boxes  # the crop stays where it was, whatever the finder makes of the patch
    return Game(subject, (left, top, patch), clean)


def points_at(result: Attribution, square: tuple[int, int, int]) -> bool:
    """Return whether the map's strongest vote for fake lies in the square [x, y, side] of the picture."""
    values = scale(result).values
    x, y, width, height = result.region
    best = values.argmin() if result.method in LOW_POINTS else values.argmax()
    row, column = np.unravel_index(best, values.shape)
    at_x = x + (column + 0.5) * width / values.shape[1]
    at_y = y + (row + 0.5) * height / values.shape[0]
    left, top, side = square
    return bool(left <= at_x < left + side and top <= at_y < top + side)


def play(pictures: list[bytes], names: list[str], models: Models, budget: Budget) -> str:
    """Play the pointing game; return the Markdown table and how the networks react to the patch."""
    rng = np.random.default_rng(17)
    hits: dict[str, list[bool]] = {name: [] for name in names}
    chance: dict[str, list[float]] = {name: [] for name in names}
    rises = []
    for number, data in enumerate(pictures):
        game = plant(data, rng)
        before, after = (float(models.scorer(s.crop[None])[0]) for s in (game.clean, game.subject))
        rises.append(after - before)
        for name in names:
            result = run_method(name, game.subject, models, budget)
            hits[name].append(points_at(result, game.square))
            chance[name].append(game.square[2] ** 2 / (result.region[2] * result.region[3]))
        print(f"pointing game {number + 1}/{len(pictures)}", file=sys.stderr, flush=True)
    lines = ["| method | points at the patch | chance |", "| --- | --- | --- |"]
    for name in names:
        rate, blind = statistics.fmean(hits[name]), statistics.fmean(chance[name])
        lines.append(f"| {name} | {rate:.2f} ({sum(hits[name])} of {len(pictures)}) | {blind:.2f} |")
    higher = sum(rise > 0 for rise in rises)
    lines.append(
        f"\nThe patch raises the face CNN's logit in {higher} of {len(pictures)} pictures "
        f"(median change {statistics.median(rises):+.2f})."
    )
    return "\n".join(lines)


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


def measure_verdicts(url: str, rounds: int, seconds: float) -> str:
    """Return verdict latency beside a stopped and a saturated worker, in alternating blocks of ``seconds``."""
    data = photograph(640, 480)
    with tempfile.TemporaryDirectory(prefix="veridict-") as folder:
        settings = QueueSettings(state=Path(folder), lease=60.0)
        command = [sys.executable, "-m", "veridict.client.cli", "worker", "--state", folder, "--port", "0"]
        with subprocess.Popen(
            [*command, "--url", url, "--lease", "60"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            samples: dict[str, list[float]] = {"idle": [], "busy": []}
            with (
                ExplanationClient(settings) as queue,
                DetectorClient(config=ClientConfig(url, deadline=60.0)) as client,
            ):
                for picture in face_pictures(None, 12):
                    queue.submit(picture, CORE)
                time.sleep(10)  # the worker has loaded its networks
                for _ in range(rounds):
                    for state, number in (("idle", signal.SIGSTOP), ("busy", signal.SIGCONT)):
                        os.kill(worker.pid, number)
                        time.sleep(1.5)  # what the server still had to score is done
                        ends = time.monotonic() + seconds
                        while (started := time.monotonic()) < ends:
                            client.detect(data)
                            samples[state].append(1e3 * (time.monotonic() - started))
                waiting = sum(queue.queue.streams["live"].waiting())
            worker.terminate()
            worker.wait()
    lines = ["| worker | verdicts | p50 ms | p95 ms |", "| --- | --- | --- | --- |"]
    for state, taken in samples.items():
        p50, p95 = np.percentile(taken, (50, 95))
        lines.append(f"| {state} | {len(taken)} | {p50:.0f} | {p95:.0f} |")
    lines.append("" if waiting else "\nThe worker ran out of jobs before the end: the busy figures are too low.")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--images", type=int, default=50, help="pictures of the pointing game (default: %(default)s)")
    parser.add_argument(
        "--faces", type=Path, help="folder of real faces (default: variations of scikit-image's astronaut)"
    )
    parser.add_argument("--repeats", type=int, default=4, help="timed calls per method (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="gradients per map of the pointing game")
    parser.add_argument("--samples", type=int, default=150, help="perturbed pictures per map of the pointing game")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of verdict latency per state; 0 leaves them out")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one block (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads (default: half the cores)")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the tables; return 0, or 1 when the server or a method fails."""
    if arguments.repeats < 2 or arguments.images < 0:
        print("veridict bench-explain: --repeats must be at least 2 and --images not negative", file=sys.stderr)
        return 2
    set_threads(arguments.threads)
    names = list(METHODS)
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
    parts = []
    try:
        with TritonServer(settings) as server:
            models = Models(url=server.url)
            pictures = face_pictures(arguments.faces, max(arguments.images, arguments.repeats))
            versions = json.dumps(models.versions)
            parts.append(f"Machine: {describe_machine()}. Models: {versions}.")
            parts.append("## Seconds\n\n" + time_methods(pictures[: arguments.repeats], names, models))
            if arguments.images:
                budget = Budget(steps=arguments.steps, samples=arguments.samples)
                table = play(pictures[: arguments.images], names, models, budget)
                head = f"## Pointing game\n\nBudget: {budget.steps} steps, {budget.samples} samples.\n\n"
                parts.append(head + table)
            if arguments.rounds:
                table = measure_verdicts(server.url, arguments.rounds, arguments.seconds)
                parts.append("## Verdict latency beside one worker\n\n" + table)
    except (LaunchError, RepositoryError, ExplainError, ValueError) as error:
        print(f"veridict bench-explain: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(parts))
    return 0
