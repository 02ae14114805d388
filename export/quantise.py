"""fp32 ONNX -> int8 ONNX for CPUs, calibrated on images and held to its source.

Static post-training quantisation (Jacob et al. 2018) by ONNX Runtime: QDQ format, weights per output channel. Half of
the images calibrate the activations' ranges; the other half, never seen by the calibration, is the parity gate's.
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

from veridict.deploy.runtime import Network
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


def _reader(images: Pixels, name: str) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Pixels] = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, Pixels] | None:
            rows = next(self.batches, None)
            return None if rows is None else {name: rows}

    return Reader()


def _folded(source: Path, folder: Path) -> Path:
    """Return a copy of the graph with its weights in fp32 and constants folded, which the quantiser needs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    path = folder / "folded.onnx"
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return path


def quantise(source: Path, model: sig.Model, images: Pixels, path: Path) -> list[Parity]:
    """Write the int8 graph of ``source`` to ``path`` when it passes its gate, and return how close it is.

    ``images`` are uint8 [N, 224, 224, 3] as the server would hand them over, in random order.

    Raises:
        ValueError: there are fewer than 32 images.
        ParityError: on the images it was not calibrated on, the int8 graph strays too far from its source.
    """
    if len(images) < FEWEST_IMAGES:
        raise ValueError(f"int8 needs at least {FEWEST_IMAGES} calibration images, there are {len(images)}")
    calibrating, held_out = images[::2], images[1::2]
    expected = run_graph(source, model, held_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        for kept in _KEPT_IN_FLOAT:
            _quantise(source, model, calibrating, partial, kept)
            try:
                # Judged as it is served: in the CPU profile's runtime, bfloat16 included where there is any.
                parities = compare(model, "int8", expected, Network(partial)(held_out))
                break
            except ParityError:
                if kept == _KEPT_IN_FLOAT[-1]:
                    raise
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return parities


def _quantise(source: Path, model: sig.Model, images: Pixels, path: Path, kept_in_float: int) -> None:
    import onnxruntime.quantization as quantization

    with tempfile.TemporaryDirectory() as name:
        folded = _folded(source, Path(name))
        convolutions = [node.name for node in onnx.load(folded).graph.node if node.op_type == "Conv"]
        # The percentile method prints its progress as it goes; the export has its own.
        with contextlib.redirect_stdout(None):
            quantization.quantize_static(
                folded,
                path,
                _reader(images, model.inputs[0].name),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_QUANTISED,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                nodes_to_exclude=convolutions[:kept_in_float],
                extra_options={"CalibPercentile": _PERCENTILE},
            )
    onnx.checker.check_model(onnx.load(path))
