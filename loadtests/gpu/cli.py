"""``veridict gpu-check``: builds the TensorRT engines, checks their parity, measures their rates, and serves them.

A step that fails is reported and the other steps run. Without a GPU the command prints so and does nothing.
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
from veridict.deploy import option_types
from veridict.deploy.launcher import Installation, LaunchError, ServerSettings, find_triton
from veridict.deploy.manifest import ENGINE_FILES, FP16_GRAPH
from veridict.deploy.own_server import own_server
from veridict.deploy.repository import query_gpus
from veridict.export.convert.engine_run import Device, LoadedEngine
from veridict.export.convert.engines import EngineError, EngineSettings, import_runtime
from veridict.export.convert.parity import Parity
from veridict.forensics import signature as sig

from ..bench.networks import sample_rows
from ..bench.pipelines import TritonPipeline
from ..bench.serving import summarise_results
from ..closed_loop import Call, RejectedError
from ..interleaved import Case, measure_interleaved
from ..sample_images import SIZES, photograph
from .flops import count_flops
from .matrix_rate import Clock, Launch, measure_rate, measured_precisions, time_back_to_back
from .report import EngineRate, Findings, Gpu, StepOutcome, to_markdown

NO_GPU = "no NVIDIA GPU: nothing was built or measured"
NO_GPU_STATUS = 2
BATCHES = (1, 8, 16, 64)
#: Numbers of concurrent clients of the served detector; ``preprocess`` takes 32 images at a time.
CLIENTS = (1, 8, 32)
_IMAGES = ("640x480", "1920x1080")
_ROUNDS = 3
#: Seconds within which the models must be ready: on a GPU each instance loads its engine and captures CUDA graphs.
_READY_TIMEOUT = 300.0
#: Latencies that are measured at least, however long they take.
_MIN_LATENCIES = 20


class StepSkippedError(Exception):
    """A step cannot run on this machine; the message says what is missing. It does not count as a failure."""


@dataclass(frozen=True)
class Step:
    """One step: ``action`` returns its result in words; ``needs`` names the steps that must have succeeded before."""

    name: str
    action: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckSettings:
    """Where to build, the seconds per figure, and a folder of images to fit an fp8 engine on (None: fp16 only)."""

    repository: Path = Path("build/gpu-check/repository")
    seconds: float = 1.0
    fp8_images: Path | None = None


def find_gpus() -> list[Gpu]:
    """Return this machine's NVIDIA GPUs; an empty list without a driver."""
    lines = query_gpus("name,compute_cap,driver_version,memory.total")
    return [Gpu(*parts) for line in lines if len(parts := line.rsplit(", ", 3)) == 4]


def run_steps(steps: Sequence[Step], report: Callable[[str], None]) -> list[StepOutcome]:
    """Run the steps in order and return their outcomes; a failed step stops only the steps that need it."""
    outcomes: list[StepOutcome] = []
    succeeded: set[str] = set()
    for step in steps:
        missing = [name for name in step.needs if name not in succeeded]
        if missing:
            outcomes.append(StepOutcome(step.name, f"not run: needs {', '.join(missing)}", 0.0, failed=True))
            continue
        report(f"{step.name} ...")
        started = time.monotonic()
        text, failed, skipped = "", False, False
        try:
            text = step.action()
            succeeded.add(step.name)
        except StepSkippedError as reason:
            text, skipped = str(reason), True
        except Exception as error:  # any error belongs in the report, and the other steps still run
            text, failed = f"FAILED: {type(error).__name__}: {error}", True
        outcomes.append(StepOutcome(step.name, text, time.monotonic() - started, failed, skipped))
        report(f"{step.name}: {text}")
    return outcomes


def plan_steps(findings: Findings, settings: CheckSettings, report: Callable[[str], None]) -> list[Step]:
    """Return the steps of the check; their actions fill ``findings``."""
    gpu = findings.gpus[0]
    others = f"; measured on the first of {len(findings.gpus)}" if len(findings.gpus) > 1 else ""
    steps = [Step("GPU", lambda: f"{gpu}{others}")]
    for precision in measured_precisions(gpu.compute_capability):
        steps.append(Step(f"matrix rate {precision}", _matrix_step(findings, settings, precision)))
    steps.append(Step("engines and parity", lambda: build_engines(findings, settings, report)))
    for name in sig.ENGINES:
        steps.append(Step(f"rate of {name}", _rate_step(findings, settings, name), ("engines and parity",)))
    steps.append(Step("serving", lambda: measure_serving(findings, settings), ("engines and parity",)))
    return steps


def _matrix_step(findings: Findings, settings: CheckSettings, precision: str) -> Callable[[], str]:
    def action() -> str:
        rate = measure_rate(precision, settings.repository.parent / "matrix", settings.seconds)
        findings.matrix.append(rate)
        return f"{rate.tflops:.1f} TFLOP/s, product of {rate.side} x {rate.side} matrices, {rate.through}"

    return action


def build_engines(findings: Findings, settings: CheckSettings, report: Callable[[str], None]) -> str:
    """Export the bundled models with TensorRT engines and compare each engine with PyTorch in fp32 on this GPU."""
    from veridict.export.convert.assemble import export_repository
    from veridict.export.convert.settings import ExportSettings

    wanted = ExportSettings(
        output=settings.repository, engine=EngineSettings("tensorrt"), fp8_images=settings.fp8_images
    )
    exported = export_repository(wanted, report)
    findings.engines += exported.engines
    findings.parities += engine_parities(exported.parities)
    lowest = min(p.lowest_cosine for p in findings.parities)
    return f"{len(findings.engines)} engines by {findings.engines[0].runtime}, lowest cosine to PyTorch {lowest:.6f}"


def engine_parities(parities: Sequence[Parity]) -> list[Parity]:
    """Return the parities of the engines: an export lists them last for each network, one per output."""
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
                engine.give({model.inputs[0].name: sample_rows(model, batch)})
                taken = time_launches(engine.launch, device.clock, settings.seconds)
                findings.rates.append(EngineRate(name, precision, batch, *taken, flops * batch))
        best = max((r for r in findings.rates if r.network == name), key=lambda r: r.images_per_second)
        return f"{best.images_per_second:.0f} images/s at batch {best.batch}, {flops / 1e9:.2f} GFLOP per image"

    return action


def time_launches(launch: Launch, clock: Clock, seconds: float) -> tuple[float, float, float]:
    """Return milliseconds per launch back to back, and the p50 and p99 latency of single launches in milliseconds."""
    back_to_back = time_back_to_back(launch, clock, seconds)
    latencies: list[float] = []
    ends = time.perf_counter() + seconds
    while len(latencies) < _MIN_LATENCIES or time.perf_counter() < ends:
        started = time.perf_counter()
        clock(launch)  # returns when the launch has finished
        latencies.append(1e3 * (time.perf_counter() - started))
    p50, p99 = np.percentile(latencies, (50, 99))
    return back_to_back, float(p50), float(p99)


def missing_backend(installation: Installation) -> str:
    """Return why this tritonserver cannot serve TensorRT engines; "" if it can."""
    root = installation.bundled or installation.binary.resolve().parents[1]
    if (root / "backends" / "tensorrt").is_dir():
        return ""
    where = "the embedded Triton wheel" if installation.bundled else "the tritonserver on PATH"
    return f"{where} has no TensorRT backend; run this in NVIDIA's Triton container"


class ClientLibraryPipeline(TritonPipeline):
    """The served detector through the client library, which parses the verdicts."""

    @contextmanager
    def connect(self, data: bytes, batch: int = 1) -> Iterator[Call]:
        """Open a client and yield its call, which judges one image."""
        # Rejections are counted, without retries and throttling: the benchmark measures the server, not the client.
        with DetectorClient(config=ClientConfig(self.url, deadline=120.0, attempts=1, throttle=0)) as client:

            def call() -> int:
                try:
                    client.detect(data)
                except OverloadedError as error:
                    raise RejectedError from error
                return 1

            yield call


def measure_serving(findings: Findings, settings: CheckSettings) -> str:
    """Serve the repository with the GPU profile and measure it with closed-loop clients.

    Raises:
        StepSkippedError: there is no tritonserver with a TensorRT backend.
        LaunchError: the server does not start.
    """
    try:
        installation = find_triton()
    except LaunchError as error:
        raise StepSkippedError(f"not served: {error}") from error
    if missing := missing_backend(installation):
        raise StepSkippedError(f"not served: {missing}")
    repository = settings.repository
    with own_server(ServerSettings(repository, "gpu", "127.0.0.1", 0, 0, 0, ready_timeout=_READY_TIMEOUT)) as server:
        pipeline = ClientLibraryPipeline(server)
        cases = [Case(pipeline, name, photograph(*SIZES[name]), n) for name in _IMAGES for n in CLIENTS]
        findings.served += summarise_results(measure_interleaved(cases, _ROUNDS, settings.seconds, "serving"))
    best = max(findings.served, key=lambda row: row.images_per_second)
    return f"{best.images_per_second:.1f} images/s of {best.image} at concurrency {best.concurrency}"


def describe_versions() -> str:
    """Return the versions of the TensorRT Python package and of PyTorch."""
    import torch

    try:
        tensorrt = str(import_runtime("tensorrt").__version__)
    except EngineError as error:
        tensorrt = f"none ({error})"
    return f"TensorRT {tensorrt}, PyTorch {torch.__version__}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--output", type=Path, default=Path("build/gpu-check/GPU.md"), help="file of the report (default: %(default)s)"
    )
    parser.add_argument(
        "--repository",
        type=Path,
        default=CheckSettings.repository,
        help="folder to build the model repository in (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=option_types.seconds, default=1.0, help="seconds per figure (default: %(default)s)"
    )
    parser.add_argument(
        "--fp8", type=Path, metavar="IMAGES", help="build the image encoder's engine in fp8, fitted on these"
    )


def command_line(arguments: argparse.Namespace) -> str:
    """Return the command that repeats this run, without paths."""
    words = ["veridict", "gpu-check"]
    if arguments.seconds != CheckSettings.seconds:
        words += ["--seconds", f"{arguments.seconds:g}"]
    if arguments.fp8 is not None:
        words += ["--fp8", "IMAGES"]
    return shlex.join(words)


def run(arguments: argparse.Namespace) -> int:
    """Run the check; return 0, 1 if a step failed (the report is still written), 2 without a GPU or for bad options."""
    gpus = find_gpus()
    if not gpus:
        print(NO_GPU, file=sys.stderr)
        return NO_GPU_STATUS
    settings = CheckSettings(arguments.repository, arguments.seconds, arguments.fp8)
    findings = Findings(gpus)
    outcomes = run_steps(plan_steps(findings, settings, _log), _log)
    text = to_markdown(command_line(arguments), findings, outcomes, describe_versions())
    print(text)
    try:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)
    except OSError as error:
        print(f"veridict gpu-check: {error}", file=sys.stderr)
        return 1
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _log(text: str) -> None:
    print(f"veridict gpu-check: {text}", file=sys.stderr, flush=True)
