"""ONNX -> TensorRT engines: ``tensorrt`` on the machine that serves, ``tensorrt-rtx`` ahead of time without a GPU.

Both builders parse the same graph with the same API. Precision comes from the graph alone (strong typing: TensorRT 11
and TensorRT-RTX removed the builder's own precision flags). So an fp16 engine is built from the fp16 graph, which has
passed the parity gate, and an fp8 engine from a graph with quantised matrix products (:mod:`.quantise`). Triton serves
``tensorrt`` plans. A ``tensorrt-rtx`` engine is for RTX machines; building one proves without a GPU that a graph
converts.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.repository import installed_gpu
from veridict.forensics import signature as sig
from veridict.forensics.arrays import AnyArray, Float32Array

from ..files import replacing

RUNTIMES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
#: Runtime -> file name of its engine, next to ``model.onnx``; Triton loads ``model.plan``.
ENGINE_FILES = {"tensorrt": "model.plan", "tensorrt-rtx": "model.rtx"}
#: Compute capability of the first GPUs with fp8.
_FIRST_FP8 = 89


class EngineError(RuntimeError):
    """An engine cannot be built here, or its graph does not convert; the message says why."""


@dataclass(frozen=True)
class EngineSettings:
    """How to build: runtime, target GPU and the batch sizes of the optimisation profile.

    ``target`` is a compute capability such as ``sm89``, or ``current`` for this machine's GPU. Only TensorRT-RTX builds
    for another GPU. ``compatible`` engines run on every GPU from Ampere on and on later versions of the runtime, but
    somewhat slower.
    """

    runtime: str = "tensorrt"
    target: str = "current"
    batches: tuple[int, int, int] = (1, 16, 64)
    compatible: bool = False
    timing_cache: Path | None = None
    workspace_mib: int = 2048


@dataclass(frozen=True)
class Engine:
    """One built engine: its model, file, builder version, target, layers of the network, size and seconds to build."""

    model: str
    file: str
    runtime: str
    target: str
    compatible: bool
    layers: int
    bytes: int
    seconds: float


def import_runtime(runtime: str) -> Any:
    """Return the builder's Python module.

    Raises:
        EngineError: the runtime is not installed, or only its empty placeholder package is.
    """
    if runtime not in RUNTIMES:
        raise EngineError(f"unknown runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    package = "tensorrt-cu13" if runtime == "tensorrt" else "tensorrt-rtx-cu13"
    try:
        module = importlib.import_module(RUNTIMES[runtime])
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"{runtime} is not installed ({error}): pip install {package}") from error
    if not hasattr(module, "Builder"):
        raise EngineError(f"the installed {RUNTIMES[runtime]} is a placeholder without a builder: install {package}")
    return module


def _progress_monitor(trt: Any, report: Callable[[str], None]) -> Any:
    """Return a monitor that reports each phase of the build when it begins."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            report(f"{phase_name} ({num_steps} steps)")

        def step_complete(self, phase_name: str, step: int) -> bool:
            return True

        def phase_finish(self, phase_name: str) -> None:
            pass

    return Monitor()


def _parse(trt: Any, builder: Any, logger: Any, graph: Path) -> Any:
    flags = 0
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly_typed is not None:
        flags = 1 << int(strongly_typed)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"{graph} does not convert: {reasons}")
    return network


def _set_target(trt: Any, config: Any, settings: EngineSettings) -> None:
    if settings.runtime == "tensorrt-rtx" and (settings.compatible or settings.timing_cache):
        # TensorRT-RTX chooses kernels on the target when an engine is first loaded; the build times nothing.
        raise EngineError("a timing cache and compatibility flags are for the tensorrt runtime, not for tensorrt-rtx")
    if settings.target == "current":
        return
    if settings.runtime != "tensorrt-rtx":
        raise EngineError(f"tensorrt builds only for this machine's GPU: build for {settings.target} on such a machine")
    known = trt.ComputeCapability.__members__
    name = settings.target.upper()
    if name not in known:
        choices = ", ".join(sorted(k.lower() for k in known if k.startswith("SM")))
        raise EngineError(f"tensorrt-rtx knows no target {settings.target!r}; there are {choices}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


def _set_compatibility(trt: Any, config: Any) -> None:
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def require_fp8(settings: EngineSettings) -> None:
    """Check that the target GPU computes in fp8: Ada, Hopper and later do.

    Raises:
        EngineError: the target GPU does not, or no target is named and this machine has no GPU.
    """
    target = installed_gpu() if settings.target == "current" else settings.target.lower()
    if not target:
        raise EngineError("fp8 depends on the GPU, and this machine has none: name the GPU with --target")
    found = re.fullmatch(r"sm(\d+)", target)
    if found and int(found[1]) < _FIRST_FP8:
        raise EngineError(f"{target} does not compute in fp8; sm{_FIRST_FP8} and later do")


def build_engine(
    graph: Path,
    model: sig.Model,
    dims: tuple[int, ...],
    settings: EngineSettings,
    path: Path,
    report: Callable[[str], None] = lambda text: None,
) -> Engine:
    """Build the engine of one graph and write it to ``path``; ``dims`` is the input's shape without the batch.

    Raises:
        EngineError: the runtime is missing, needs a GPU and finds none, or cannot build the graph.
    """
    trt = import_runtime(settings.runtime)
    started = time.monotonic()
    logger = trt.Logger(trt.Logger.ERROR)
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:  # tensorrt needs a CUDA driver
        raise EngineError(f"{settings.runtime} finds no usable GPU ({error})") from error
    network = _parse(trt, builder, logger, graph)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    config.progress_monitor = monitor = _progress_monitor(trt, report)
    profile = builder.create_optimization_profile()
    smallest, usual, largest = (min(b, model.max_batch_size) for b in settings.batches)
    profile.set_shape(model.inputs[0].name, (smallest, *dims), (usual, *dims), (largest, *dims))
    config.add_optimization_profile(profile)
    _set_target(trt, config, settings)
    if settings.compatible:
        _set_compatibility(trt, config)
    cache = None
    if settings.timing_cache is not None:
        stored = settings.timing_cache.read_bytes() if settings.timing_cache.exists() else b""
        cache = config.create_timing_cache(stored)
        config.set_timing_cache(cache, ignore_mismatch=False)
    serialised = builder.build_serialized_network(network, config)
    del monitor
    if serialised is None:
        raise EngineError(f"{settings.runtime} could not build {model.name} for {settings.target}")
    if cache is not None and settings.timing_cache is not None:
        settings.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        settings.timing_cache.write_bytes(bytes(cache.serialize()))
    with replacing(path) as partial:
        partial.write_bytes(bytes(serialised))
    return Engine(
        model=model.name,
        file=path.name,
        runtime=f"{settings.runtime} {trt.__version__}",
        target=settings.target if settings.target != "current" else installed_gpu(),
        compatible=settings.compatible,
        layers=network.num_layers,
        bytes=path.stat().st_size,
        seconds=round(time.monotonic() - started, 1),
    )


def run_engine(path: Path, model: sig.Model, rows: AnyArray) -> list[Float32Array]:
    """Return every output's rows [N, D] float32 of a ``tensorrt`` engine on this machine's GPU, for the parity gate.

    Raises:
        EngineError: the engine does not load here, or there is no GPU.
    """
    from .engine_run import run_once

    (wanted,) = model.inputs
    made = run_once(path, {wanted.name: rows})
    return [np.asarray(made[produced.name], dtype=np.float32) for produced in model.outputs]
