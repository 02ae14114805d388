"""Measures the GPU's rate of matrix arithmetic, with which the engines' rates are compared.

A data sheet's figure assumes a clock frequency that the GPU does not keep during products of random numbers. A large
product timed on the GPU gives a rate that a network can reach. The values are random, since zeros take less power and
the GPU then runs at a higher frequency.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from veridict.export.convert.engine_run import Device, LoadedEngine
from veridict.export.convert.engines import Engine, EngineSettings, build_engine
from veridict.forensics import signature as sig
from veridict.forensics.arrays import AnyArray

#: Rows and columns of both matrices: a product has 1.1 TFLOP and takes 0.4 GB in half precision.
SIDE = 8192
#: Lowest compute capability with fp8.
MIN_FP8_CAPABILITY = 8.9
_OPSET, _IR_VERSION = 19, 10
#: Timed groups, and the largest number of launches in one.
_GROUPS, _MAX_LAUNCHES = 5, 10_000

Launch = Callable[[], None]
#: Runs the work that a function enqueues on the device and returns its milliseconds on the device.
Clock = Callable[[Launch], float]


@dataclass(frozen=True)
class MatrixRate:
    """A measured rate in 10^12 operations per second; ``through`` is the library that computed the product."""

    precision: str
    tflops: float
    side: int
    through: str


def time_back_to_back(launch: Launch, clock: Clock, seconds: float) -> float:
    """Return the milliseconds of one launch: the median of five groups of launches back to back, ``seconds`` in all."""
    clock(launch)  # loads the kernels and lets the clock frequency settle

    def group(count: int) -> float:
        def work() -> None:
            for _ in range(count):
                launch()

        return clock(work) / count

    once = max(group(3), 1e-6)
    count = min(_MAX_LAUNCHES, max(1, round(1e3 * seconds / _GROUPS / once)))
    return statistics.median(group(count) for _ in range(_GROUPS))


def tflops(flops: float, milliseconds: float) -> float:
    """Return the rate in 10^12 operations per second."""
    return flops / milliseconds * 1e-9


def measured_precisions(compute_capability: str) -> tuple[str, ...]:
    """Return the precisions that are measured on a GPU of this compute capability, such as ``8.9``."""
    try:
        return ("fp16", "fp8") if float(compute_capability) >= MIN_FP8_CAPABILITY else ("fp16",)
    except ValueError:
        return ("fp16",)


def product_graph(precision: str, side: int = SIDE) -> onnx.ModelProto:
    """Return the graph of one product A [rows, side] x B [side, side] -> C fp16 [rows, side].

    For fp8 both inputs are fp8 (E4M3) with a scale of 1, so that only the product is timed.
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
    """Build the engine of one product for exactly ``side`` rows; return its file and its description.

    Raises:
        EngineError: the runtime is missing, or it cannot build the engine.
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


def operand(precision: str, side: int, seed: int) -> AnyArray:
    """Return a random matrix [side, side]: fp16 values, or for fp8 the bytes (uint8) of finite E4M3 values."""
    rng = np.random.default_rng(seed)
    if precision == "fp16":
        return rng.standard_normal((side, side), np.float32).astype(np.float16)
    # A sign bit and a magnitude code below that of 2.0 (0x40); 0x7f would be NaN.
    return rng.integers(0, 0x40, (side, side), np.uint8) | (rng.integers(0, 2, (side, side), np.uint8) << 7)


def rate_by_tensorrt(precision: str, folder: Path, seconds: float, side: int = SIDE) -> MatrixRate:
    """Return the rate of a TensorRT engine of one product.

    Raises:
        EngineError: TensorRT is missing, or it cannot build or run the engine.
    """
    path, built = build_product(precision, folder, EngineSettings(), side)
    with Device() as device, LoadedEngine(path, device) as engine:
        engine.give({"A": operand(precision, side, 0), "B": operand(precision, side, 1)})
        taken = time_back_to_back(engine.launch, device.clock, seconds)
    return MatrixRate(precision, tflops(2 * side**3, taken), side, built.runtime)


def rate_by_torch(precision: str, seconds: float, side: int = SIDE, device: str = "cuda") -> MatrixRate:
    """Return the rate of one product in PyTorch; devices other than ``cuda`` are for tests.

    Raises:
        RuntimeError: PyTorch cannot compute it here.
    """
    import torch

    given = [torch.randn(side, side, device=device, dtype=torch.float16) for _ in range(2)]

    def launch_fp16() -> None:
        torch.mm(given[0], given[1], out=made)

    def launch_fp8() -> None:
        torch._scaled_mm(*fp8_operands, scale_a=one, scale_b=one, out_dtype=torch.float16, use_fast_accum=True)

    made = torch.empty_like(given[0])
    launch = launch_fp16
    if precision != "fp16":
        one = torch.ones((), device=device)
        # cuBLAS takes the second operand of an fp8 product in column-major order.
        fp8_operands = (given[0].to(torch.float8_e4m3fn), given[1].to(torch.float8_e4m3fn).t())
        launch = launch_fp8

    def clock(work: Launch) -> float:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        work()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1]))

    taken = time_back_to_back(launch, clock if device == "cuda" else _wall_clock, seconds)
    return MatrixRate(precision, tflops(2 * side**3, taken), side, f"PyTorch {torch.__version__}")


def _wall_clock(work: Launch) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def measure_rate(precision: str, folder: Path, seconds: float) -> MatrixRate:
    """Return the GPU's rate, measured with PyTorch if it has CUDA, else with TensorRT.

    Raises:
        EngineError: TensorRT is missing, or it cannot build or run the engine.
        RuntimeError: PyTorch cannot compute the product here.
    """
    import torch

    if torch.cuda.is_available():
        return rate_by_torch(precision, seconds)
    return rate_by_tensorrt(precision, folder, seconds)
