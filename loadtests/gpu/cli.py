"""``veridict gpu-check``: everything that only a GPU can show, in one run: engines, parity, rates, serving.

Steps that fail are reported and the rest goes on; without a GPU nothing is done, and that is said.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from veridict.client import ClientConfig, DetectorClient, OverloadedError
from veridict.deploy.launcher import Installation, LaunchError, ServerSettings, find_triton
from veridict.deploy.own_server import own_server
from veridict.deploy.repository import ENGINE_FILES, FP16_GRAPH, query_gpus
from veridict.export.convert.engine_run import Device, LoadedEngine
from veridict.export.convert.engines import EngineError, EngineSettings, import_runtime
from veridict.export.convert.parity import Parity
from veridict.forensics import signature as sig

from ..bench.networks import blank_rows
from ..closed_loop import Call, RefusedError
from ..rounds import Task, measure_tasks
from ..sample_images import SIZES, photograph
from .findings import EngineRate, Findings, Gpu, Outcome, to_markdown
from .flops import count_flops
from .matrix_rate import Clock, Launch, measure_rate, precisions, repeat_until

NO_GPU = "no NVIDIA GPU: nothing was built or measured"
NO_GPU_STATUS = 2
BATCHES = (1, 8, 16, 64)
#: Clients at once of the served detector; its first step takes 32 images at a time.
CLIENTS = (1, 8, 32)
_PICTURES = ("640x480", "1920x1080")
_ROUNDS = 3
#: Seconds until the models are ready: on a GPU each instance loads its engine and captures CUDA graphs.
_READY = 300.0
_FEWEST_LATENCIES = 20


class SkippedError(Exception):
    """A step has nothing to run on here; the message says what is missing. Not a failure."""


@dataclass(frozen=True)
class Step:
    """Something to do: ``action`` returns its outcome in words; ``needs`` names steps that must have gone well."""

    name: str
    action: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckSettings:
    """Where to build, for how long to measure each figure, and pictures to fit an fp8 engine on (None: fp16 only)."""

    repository: Path = Path("build/gpu-check/repository")
    seconds: float = 1.0
    fp8_images: Path | None = None


def find_gpus() -> list[Gpu]:
    """Return this machine's NVIDIA GPUs; none where there is no driver."""
    lines = query_gpus("name,compute_cap,driver_version,memory.total")
    return [Gpu(*parts) for line in lines if len(parts := line.rsplit(", ", 3)) == 4]


def run_steps(steps: Sequence[Step], report: Callable[[str], None]) -> list[Outcome]:
    """Run the steps in order and return how each went; one that raises does not stop those that do not need it."""
    outcomes: list[Outcome] = []
    good: set[str] = set()
    for step in steps:
        lacking = [name for name in step.needs if name not in good]
        if lacking:
            outcomes.append(Outcome(step.name, f"not run: needs {', '.join(lacking)}", 0.0, failed=True))
            continue
        report(f"{step.name} ...")
        started = time.monotonic()
        text, failed, skipped = "", False, False
        try:
            text = step.action()
            good.add(step.name)
        except SkippedError as reason:
            text, skipped = str(reason), True
        except Exception as error:  # whatever it is, the table has to say so and the other steps to go on
            text, failed = f"FAILED: {type(error).__name__}: {error}", True
        outcomes.append(Outcome(step.name, text, time.monotonic() - started, failed, skipped))
        report(f"{step.name}: {text}")
    return outcomes


def plan_steps(findings: Findings, settings: CheckSettings, report: Callable[[str], None]) -> list[Step]:
    """Return the steps of a check; their actions fill ``findings``."""
    gpu = findings.gpus[0]
    others = f"; measured on the first of {len(findings.gpus)}" if len(findings.gpus) > 1 else ""
    steps = [Step("GPU", lambda: f"{gpu}{others}")]
    for precision in precisions(gpu.compute_capability):
        steps.append(Step(f"matrix rate {precision}", _matrix_step(findings, settings, precision)))
    steps.append(Step("engines and parity", lambda: build(findings, settings, report)))
    for name in sig.ENGINES:
        steps.append(Step(f"rate of {name}", _rate_step(findings, settings, name), ("engines and parity",)))
    steps.append(Step("serving", lambda: serve(findings, settings), ("engines and parity",)))
    return steps


def _matrix_step(findings: Findings, settings: CheckSettings, precision: str) -> Callable[[], str]:
    def action() -> str:
        rate = measure_rate(precision, settings.repository.parent / "matrix", settings.seconds)
        findings.matrix.append(rate)
        return f"{rate.tflops:.1f} TFLOP/s, product of {rate.side} x {rate.side} matrices, {rate.through}"

    return action


def build(findings: Findings, settings: CheckSettings, report: Callable[[str], None]) -> str:
    """Export the bundled models with TensorRT engines, each held to PyTorch in fp32 on this GPU."""
    from veridict.export.convert.assemble import ExportSettings, export_repository

    wanted = ExportSettings(
        output=settings.repository, engine=EngineSettings("tensorrt"), fp8_images=settings.fp8_images
    )
    exported = export_repository(wanted, report)
    findings.engines += exported.engines
    findings.parities += engine_parities(exported.parities)
    lowest = min(p.lowest_cosine for p in findings.parities)
    return f"{len(findings.engines)} engines by {findings.engines[0].runtime}, lowest cosine to PyTorch {lowest:.6f}"


def engine_parities(parities: Sequence[Parity]) -> list[Parity]:
    """Return those of the engines: an export notes a network's engine after its graphs, output by output."""
    found = []
    for name in sig.ENGINES:
        own = [p for p in parities if p.model == name]
        found += own[-len(sig.MODELS[name].outputs) :]
    return found


def _rate_step(findings: Findings, settings: CheckSettings, name: str) -> Callable[[], str]:
    def action() -> str:
        model, folder = sig.MODELS[name], settings.repository / name / "1"
        precision = "fp8" if settings.fp8_images is not None and model is sig.CLIP_IMAGE else "fp16"
        flops = count_flops(folder / FP16_GRAPH)
        with Device() as device, LoadedEngine(folder / ENGINE_FILES["gpu"], device) as engine:
            for batch in BATCHES:
                engine.give({model.inputs[0].name: blank_rows(model, batch)})
                taken = time_launches(engine.launch, device.clock, settings.seconds)
                findings.rates.append(EngineRate(name, precision, batch, *taken, flops * batch))
        best = max((r for r in findings.rates if r.network == name), key=lambda r: r.images_per_second)
        return f"{best.images_per_second:.0f} images/s at batch {best.batch}, {flops / 1e9:.2f} GFLOP per image"

    return action


def time_launches(launch: Launch, clock: Clock, seconds: float) -> tuple[float, float, float]:
    """Return milliseconds per launch back to back, and p50 and p99 of launches that each wait for their end."""
    back_to_back = repeat_until(launch, clock, seconds)
    alone: list[float] = []
    ends = time.perf_counter() + seconds
    while len(alone) < _FEWEST_LATENCIES or time.perf_counter() < ends:
        started = time.perf_counter()
        clock(launch)  # waits for the end
        alone.append(1e3 * (time.perf_counter() - started))
    p50, p99 = np.percentile(alone, (50, 99))
    return back_to_back, float(p50), float(p99)


def lacking_backend(installation: Installation) -> str:
    """Return why this tritonserver cannot serve TensorRT engines; "" when it can."""
    root = installation.bundled or installation.binary.resolve().parents[1]
    if (root / "backends" / "tensorrt").is_dir():
        return ""
    where = "the embedded Triton wheel" if installation.bundled else "the tritonserver on PATH"
    return f"{where} has no TensorRT backend; run this in NVIDIA's Triton container"


def serve(findings: Findings, settings: CheckSettings) -> str:
    """Serve the repository with the GPU profile and load it with clients.

    Raises:
        SkippedError: there is no tritonserver with a TensorRT backend.
        LaunchError: there is one and it does not start.
    """
    try:
        installation = find_triton()
    except LaunchError as error:
        raise SkippedError(f"not served: {error}") from error
    if lacking := lacking_backend(installation):
        raise SkippedError(f"not served: {lacking}")
    from ..bench.serving import rows_of  # loads PyTorch
    from ..bench.subjects import Served

    class Clients(Served):
        """The served detector through the client library, verdicts parsed."""

        @contextmanager
        def connect(self, data: bytes, batch: int = 1) -> Iterator[Call]:
            # Refusals are counted, neither retried nor held back: the server is measured, not the client's patience.
            config = ClientConfig(self.url, deadline=120.0, attempts=1, throttle=0)
            with DetectorClient(config=config) as client:

                def call() -> int:
                    try:
                        client.detect(data)
                    except OverloadedError as error:
                        raise RefusedError from error
                    return 1

                yield call

    repository = settings.repository
    with own_server(ServerSettings(repository, "gpu", "127.0.0.1", 0, 0, 0, ready_timeout=_READY)) as server:
        subject = Clients(server)
        tasks = [Task(subject, name, photograph(*SIZES[name]), n) for name in _PICTURES for n in CLIENTS]
        findings.served += rows_of(measure_tasks(tasks, _ROUNDS, settings.seconds, "serving"))
    best = max(findings.served, key=lambda row: row.images_per_second)
    return f"{best.images_per_second:.1f} images/s of {best.image} at concurrency {best.concurrency}"


def describe_versions() -> str:
    """Return the versions of TensorRT, as Python sees it, and of PyTorch."""
    import torch

    try:
        tensorrt = str(import_runtime("tensorrt").__version__)
    except EngineError as error:
        tensorrt = f"none ({error})"
    return f"TensorRT {tensorrt}, PyTorch {torch.__version__}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--output", type=Path, default=Path("build/gpu-check/GPU.md"), help="the report (default: %(default)s)"
    )
    parser.add_argument(
        "--repository", type=Path, default=CheckSettings.repository, help="where to build (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per figure (default: %(default)s)")
    parser.add_argument("--fp8", type=Path, metavar="IMAGES", help="image encoder's engine in fp8, fitted on these")


def command_line(arguments: argparse.Namespace) -> str:
    """Return the command that repeats this run, without paths."""
    words = ["veridict", "gpu-check"]
    if arguments.seconds != CheckSettings.seconds:
        words += ["--seconds", f"{arguments.seconds:g}"]
    if arguments.fp8 is not None:
        words += ["--fp8", "IMAGES"]
    return shlex.join(words)


def run(arguments: argparse.Namespace) -> int:
    """Check; return 0, 1 when a step failed (the report is written all the same), 2 without a GPU or on misuse."""
    if arguments.seconds <= 0:
        print("veridict gpu-check: --seconds must be positive", file=sys.stderr)
        return 2
    gpus = find_gpus()
    if not gpus:
        print(NO_GPU, file=sys.stderr)
        return NO_GPU_STATUS
    settings = CheckSettings(arguments.repository, arguments.seconds, arguments.fp8)
    findings = Findings(gpus)
    outcomes = run_steps(plan_steps(findings, settings, _report), _report)
    text = to_markdown(command_line(arguments), findings, outcomes, describe_versions())
    print(text)
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    except OSError as error:
        print(f"veridict gpu-check: {error}", file=sys.stderr)
        return 1
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _report(text: str) -> None:
    print(f"veridict gpu-check: {text}", file=sys.stderr, flush=True)
