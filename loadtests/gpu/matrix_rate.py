"""The rate of matrix arithmetic that this chip reaches: what the engines' rates are set against.

A data sheet's figure is for a clock that no product of real numbers keeps; a large product timed on the chip is the
rate that a network could reach. Values are random: zeros take less power, and the chip clocks higher on them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from veridict.export.convert.engine_run import Device, LoadedEngine
from veridict.export.convert.engines import Engine, EngineSettings, build_engine
from veridict.forensics import signature as sig

#: Rows and columns of both matrices: 1.1 TFLOP and 0.4 GB in half precision.
SIDE = 8192
#: Compute capability of the first GPUs with fp8.
FIRST_FP8 = 8.9
_OPSET, _IR_VERSION = 19, 10
_GROUPS, _MOST = 5, 10_000

Launch = Callable[[], None]
#: Runs what a function enqueues on the device and returns the milliseconds it took there.
Clock = Callable[[Launch], float]


@dataclass(frozen=True)
class MatrixRate:
    """A measured rate: ``through`` says what computed it."""

    precision: str
    tflops: float
    side: int
    through: str


def repeat_until(launch: Launch, clock: Clock, seconds: float) -> float:
    """Return the milliseconds of one launch: the median of five groups that run back to back, ``seconds`` in all."""
    clock(launch)  # loads kernels, settles the clocks

    def group(count: int) -> float:
        def work() -> None:
            for _ in range(count):
                launch()

        return clock(work) / count

    once = max(group(3), 1e-6)
    count = min(_MOST, max(1, round(1e3 * seconds / _GROUPS / once)))
    return statistics.median(group(count) for _ in range(_GROUPS))


def tflops(flops: float, milliseconds: float) -> float:
    """Return 10^12 operations per second."""
    return flops / milliseconds * 1e-9


def precisions(compute_capability: str) -> tuple[str, ...]:
    """Return the precisions to measure on a GPU of this compute capability, such as ``8.9``."""
    try:
        return ("fp16", "fp8") if float(compute_capability) >= FIRST_FP8 else ("fp16",)
    except ValueError:
        return ("fp16",)


def product_graph(precision: str, side: int = SIDE) -> onnx.ModelProto:
    """Return the graph of one product A [rows, side] x B [side, side] -> C fp16 [rows, side].

    In fp8 (E4M3) both operands are fp8 already, with a scale of 1, so nothing but the product is timed.
    """
    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.FLOAT8E4M3FN
    given = [
        helper.make_tensor_value_info("A", kind, ["rows", side]),
        helper.make_tensor_value_info("B", kind, [side, side]),
    ]
    made = [helper.make_tensor_value_info("C", TensorProto.FLOAT16, ["rows", side])]
    nodes, stored = [helper.make_node("MatMul", ["A", "B"], ["C"], name="product")], []
    if precision != "fp16":
        stored = [helper.make_tensor("one", TensorProto.FLOAT16, [], [1.0])]
        nodes = [helper.make_node("DequantizeLinear", [n, "one"], [f"{n}.fp16"], name=f"{n}.scale") for n in "AB"]
        nodes.append(helper.make_node("MatMul", ["A.fp16", "B.fp16"], ["C"], name="product"))
    graph = helper.make_graph(nodes, "matrix_product", given, made, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def build_product(precision: str, folder: Path, settings: EngineSettings, side: int = SIDE) -> tuple[Path, Engine]:
    """Build the engine of one product for exactly ``side`` rows; return its file and what was built.

    Raises:
        EngineError: the runtime is missing or cannot build it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / f"product.{precision}.onnx"
    onnx.save(product_graph(precision, side), graph)
    model = sig.Model(
        f"matrix_product_{precision}", (sig.Tensor("A", "FP16", (side,)),), (sig.Tensor("C", "FP16", (side,)),), side
    )
    exact = EngineSettings(settings.runtime, settings.target, (side, side, side), workspace_mib=settings.workspace_mib)
    path = folder / f"product.{precision}.engine"
    return path, build_engine(graph, model, (side,), exact, path)


def operand(precision: str, side: int, seed: int) -> npt.NDArray[Any]:
    """Return a random matrix [side, side]: fp16 values, or the bytes of finite E4M3 values in place of fp8."""
    rng = np.random.default_rng(seed)
    if precision == "fp16":
        return rng.standard_normal((side, side), np.float32).astype(np.float16)
    # Sign and a magnitude code below that of 2.0 (0x40); 0x7f would be NaN.
    return rng.integers(0, 0x40, (side, side), np.uint8) | (rng.integers(0, 2, (side, side), np.uint8) << 7)


def rate_by_tensorrt(precision: str, folder: Path, seconds: float, side: int = SIDE) -> MatrixRate:
    """Return the rate of a TensorRT engine of one product.

    Raises:
        EngineError: TensorRT is missing, or it cannot build or run the engine.
    """
    path, built = build_product(precision, folder, EngineSettings(), side)
    with Device() as device, LoadedEngine(path, device) as engine:
        engine.give({"A": operand(precision, side, 0), "B": operand(precision, side, 1)})
        taken = repeat_until(engine.launch, device.clock, seconds)
    return MatrixRate(precision, tflops(2 * side**3, taken), side, built.runtime)


def rate_by_torch(precision: str, seconds: float, side: int = SIDE, device: str = "cuda") -> MatrixRate:
    """Return the rate of one product in PyTorch; ``device`` other than ``cuda`` is for tests.

    Raises:
        RuntimeError: PyTorch cannot compute it here.
    """
    import torch

    given = [torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2)]

    def half() -> None:
        torch.mm(given[0], given[1], out=made)

    def eighth() -> None:
        torch._scaled_mm(*eighths, scale_a=one, scale_b=one, out_dtype=torch.float16, use_fast_accum=True)

    made = torch.empty_like(given[0])
    launch = half
    if precision != "fp16":
        one = torch.ones((), device=device)
        # cuBLAS wants the second operand of an fp8 product column by column.
        eighths = (given[0].to(torch.float8_e4m3fn), given[1].to(torch.float8_e4m3fn).t())
        launch = eighth

    def clock(work: Launch) -> float:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        work()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1]))

    taken = repeat_until(launch, clock if device == "cuda" else _wall_clock, seconds)
    return MatrixRate(precision, tflops(2 * side**3, taken), side, f"PyTorch {torch.__version__}")


def _wall_clock(work: Launch) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def measure_rate(precision: str, folder: Path, seconds: float) -> MatrixRate:
    """Return the chip's rate: by PyTorch where it has CUDA, by TensorRT otherwise.

    Raises:
        EngineError: neither can compute it here.
        RuntimeError: PyTorch cannot compute it here.
    """
    import torch

    if torch.cuda.is_available():
        return rate_by_torch(precision, seconds)
    return rate_by_tensorrt(precision, folder, seconds)
