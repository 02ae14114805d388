"""Quantised graphs, calibrated on images and compared with their source: int8 for CPUs, fp8 for TensorRT.

Static post-training quantisation by ONNX Runtime in QDQ format: int8 (Jacob et al. 2018) with a scale per output
channel for weights; fp8 (E4M3, Micikevicius et al. 2022) with a scale per tensor. Half of the images calibrate the
activations' ranges; the parity gate uses the other half.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from veridict.deploy.serving.cpu_runtime import load_network
from veridict.forensics import signature as sig
from veridict.forensics.arrays import Pixels
from veridict.forensics.onnx_runtime import disable_telemetry

from ..files import replacing
from .parity import Parity, ParityError, compare, run_graph

#: Convolutions do nearly all of the work. Residual additions in int8 cost accuracy and, as measured, time.
_QUANTISED = ["Conv", "Clip", "Relu"]
#: Numbers of first convolutions to keep in float, tried in turn until the parity gate passes. They see the finest
#: differences and lose most by rounding: keeping two raised a compact CLIP's lowest cosine from 0.960 to 0.990 and took
#: 2% more time.
_KEPT_IN_FLOAT = (2, 4, 7)
#: Percentile of the activations at which their ranges are cut.
_PERCENTILE = 99.99
_BATCH = 8
FEWEST_IMAGES = 32
#: Operators computed in fp8. Convolutions lose too much with three bits of mantissa: the lowest cosine to fp32 is 0.95
#: for the face CNN and 0.39 for a compact CLIP. For the matrix products of a ViT-B/32 it is 0.995.
_IN_FP8 = ["MatMul", "Gemm"]


def _reader(images: Pixels, name: str) -> Any:
    disable_telemetry()

    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Pixels] = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, Pixels] | None:
            rows = next(self.batches, None)
            return None if rows is None else {name: rows}

    return Reader()


@contextlib.contextmanager
def _folded(source: Path) -> Iterator[Path]:
    """Yield a copy of the graph with casts of weights and constants folded, as the quantiser needs it."""
    disable_telemetry()

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        yield path


def quantise(source: Path, model: sig.Model, images: Pixels, path: Path) -> list[Parity]:
    """Write the int8 graph of ``source`` to ``path`` if it passes the parity gate, and return how close it is.

    ``images`` are uint8 [N, 224, 224, 3], prepared as when served, in random order.

    Raises:
        ValueError: there are fewer than 32 images, or the graph is a transformer.
        ParityError: the int8 graph is too far from its source on the images that did not calibrate it.
    """
    calibrating, held_out = _halves(images, "int8")
    kinds = [node.op_type for node in onnx.load(source, load_external_data=False).graph.node]
    if kinds.count("Conv") < kinds.count("MatMul"):
        # A transformer's activations cannot share one range: a few features are a hundred times as large as the rest.
        raise ValueError(f"{model.name} is a transformer; the CPU runtime quantises those itself where that is faster")
    expected = run_graph(source, model, held_out)
    with replacing(path) as partial:
        for kept in _KEPT_IN_FLOAT:
            _quantise(source, model, calibrating, partial, kept)
            try:
                # Compared as it is served: in the CPU profile's runtime, with bfloat16 where the processor has it.
                parities = compare(model, "int8", expected, load_network(partial)(held_out))
                break
            except ParityError:
                if kept == _KEPT_IN_FLOAT[-1]:
                    raise
    return parities


def quantise_fp8(source: Path, reference: Path, model: sig.Model, images: Pixels, path: Path) -> list[Parity]:
    """Write a half-precision graph with its matrix products in fp8 to ``path``; return how close it is.

    It is compared with the fp32 graph ``reference`` on the second half of ``images`` (see :func:`quantise`).

    Raises:
        ValueError: there are fewer than 32 images, or the graph is mostly convolutions.
        ParityError: the fp8 graph is too far from the reference on the images that did not calibrate it.
    """
    disable_telemetry()

    import onnxruntime.quantization as quantization

    calibrating, held_out = _halves(images, "fp8")
    kinds = [node.op_type for node in onnx.load(source).graph.node]
    if kinds.count("Conv") >= sum(map(kinds.count, _IN_FP8)):
        raise ValueError(f"{model.name} is convolutional: it has hardly any matrix products to compute in fp8")
    expected = run_graph(reference, model, held_out)
    with replacing(path) as partial, _folded(source) as folded:
        _quantise_static(
            folded,
            model,
            calibrating,
            partial,
            op_types_to_quantize=_IN_FP8,
            activation_type=quantization.QuantType.QFLOAT8E4M3FN,
            weight_type=quantization.QuantType.QFLOAT8E4M3FN,
            # The only method that ONNX Runtime has for fp8.
            calibrate_method=quantization.CalibrationMethod.Distribution,
        )
        parities = compare(model, "fp8", expected, run_graph(partial, model, held_out, optimised=False))
    return parities


def _halves(images: Pixels, precision: str) -> tuple[Pixels, Pixels]:
    if len(images) < FEWEST_IMAGES:
        raise ValueError(f"{precision} needs at least {FEWEST_IMAGES} calibration images, there are {len(images)}")
    return images[::2], images[1::2]


def _quantise(source: Path, model: sig.Model, images: Pixels, path: Path, kept_in_float: int) -> None:
    disable_telemetry()

    import onnxruntime.quantization as quantization

    with _folded(source) as folded:
        convolutions = [node.name for node in onnx.load(folded).graph.node if node.op_type == "Conv"]
        _quantise_static(
            folded,
            model,
            images,
            path,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            nodes_to_exclude=convolutions[:kept_in_float],
            extra_options={"CalibPercentile": _PERCENTILE},
        )


def _quantise_static(folded: Path, model: sig.Model, images: Pixels, path: Path, **scheme: Any) -> None:
    disable_telemetry()

    import onnxruntime.quantization as quantization

    # The calibration prints its own progress, which would mix with that of the export.
    with contextlib.redirect_stdout(None):
        quantization.quantize_static(
            folded,
            path,
            _reader(images, model.inputs[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            **scheme,
        )
    onnx.checker.check_model(onnx.load(path))
