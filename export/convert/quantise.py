"""Quantised graphs, calibrated on images and held to their source: int8 for CPUs, fp8 for TensorRT.

Static post-training quantisation by ONNX Runtime, QDQ format: int8 (Jacob et al. 2018), weights per output channel; fp8
(E4M3, Micikevicius et al. 2022), a scale per tensor. Half of the images calibrate the activations' ranges; the other
half, never seen by the calibration, is the parity gate's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from veridict.deploy.serving.openvino_runtime import Network
from veridict.forensics import signature as sig

from .parity import Parity, ParityError, compare, run_graph

Pixels = npt.NDArray[np.uint8]

#: Convolutions carry nearly all of the work. Residual additions in int8 cost accuracy and, measured, time as well.
_QUANTISED = ["Conv", "Clip", "Relu"]
#: The first convolutions see the finest differences and lose most by rounding: keeping two in float raises the compact
#: CLIP's lowest cosine from 0.960 to 0.990 at 2% of the time. More are kept when the gate asks for it.
_KEPT_IN_FLOAT = (2, 4, 7)
#: Activation ranges leave out this share of outliers.
_PERCENTILE = 99.99
_BATCH = 8
FEWEST_IMAGES = 32
#: What GPUs have fp8 for. Convolutions lose too much with three bits of mantissa: their lowest cosine to fp32 is 0.95
#: (face CNN) and 0.39 (compact CLIP), that of a ViT-B/32's matrix products 0.995.
_IN_FP8 = ["MatMul", "Gemm"]


def _reader(images: Pixels, name: str) -> Any:
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
    """Yield a copy of the graph with its weights' casts and constants folded, which the quantiser needs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        yield path


def quantise(source: Path, model: sig.Model, images: Pixels, path: Path) -> list[Parity]:
    """Write the int8 graph of ``source`` to ``path`` when it passes its gate, and return how close it is.

    ``images`` are uint8 [N, 224, 224, 3] as the server would hand them over, in random order.

    Raises:
        ValueError: there are fewer than 32 images, or the graph is a transformer.
        ParityError: on the images it was not calibrated on, the int8 graph strays too far from its source.
    """
    calibrating, held_out = _halves(images, "int8")
    kinds = [node.op_type for node in onnx.load(source, load_external_data=False).graph.node]
    if kinds.count("Conv") < kinds.count("MatMul"):
        # One range for all of a transformer's activations ruins them: a few features are a hundred times the others.
        raise ValueError(f"{model.name} is a transformer: the CPU profile quantises it itself where that pays")
    expected = run_graph(source, model, held_out)
    with _partial(path) as partial:
        for kept in _KEPT_IN_FLOAT:
            _quantise(source, model, calibrating, partial, kept)
            try:
                # Judged as it is served: in the CPU profile's runtime, bfloat16 included where there is any.
                parities = compare(model, "int8", expected, Network(partial)(held_out))
                break
            except ParityError:
                if kept == _KEPT_IN_FLOAT[-1]:
                    raise
    return parities


def quantise_fp8(source: Path, reference: Path, model: sig.Model, images: Pixels, path: Path) -> list[Parity]:
    """Write ``source``, a half-precision graph, with its matrix products in fp8 to ``path``; return how close it is.

    It is held to the fp32 graph ``reference`` on the second half of ``images``, which are as for :func:`quantise`.

    Raises:
        ValueError: there are fewer than 32 images, or the graph is mostly convolutions.
        ParityError: on the images it was not calibrated on, the fp8 graph strays too far from the reference.
    """
    import onnxruntime.quantization as quantization

    calibrating, held_out = _halves(images, "fp8")
    kinds = [node.op_type for node in onnx.load(source).graph.node]
    if kinds.count("Conv") >= sum(map(kinds.count, _IN_FP8)):
        raise ValueError(f"{model.name} is convolutional: it has next to no matrix products to compute in fp8")
    expected = run_graph(reference, model, held_out)
    with _partial(path) as partial, _folded(source) as folded:
        _quantise_static(
            folded,
            model,
            calibrating,
            partial,
            op_types_to_quantize=_IN_FP8,
            activation_type=quantization.QuantType.QFLOAT8E4M3FN,
            weight_type=quantization.QuantType.QFLOAT8E4M3FN,
            # The one method that ONNX Runtime has for fp8.
            calibrate_method=quantization.CalibrationMethod.Distribution,
        )
        parities = compare(model, "fp8", expected, run_graph(partial, model, held_out, optimised=False))
    return parities


def _halves(images: Pixels, precision: str) -> tuple[Pixels, Pixels]:
    if len(images) < FEWEST_IMAGES:
        raise ValueError(f"{precision} needs at least {FEWEST_IMAGES} calibration images, there are {len(images)}")
    return images[::2], images[1::2]


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Yield where to write; what is there when nothing fails becomes ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _quantise(source: Path, model: sig.Model, images: Pixels, path: Path, kept_in_float: int) -> None:
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
    import onnxruntime.quantization as quantization

    # The calibration prints its progress as it goes; the export has its own.
    with contextlib.redirect_stdout(None):
        quantization.quantize_static(
            folded,
            path,
            _reader(images, model.inputs[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            **scheme,
        )
    onnx.checker.check_model(onnx.load(path))
