"""Counts the floating-point operations of a network from its ONNX graph, to compare an engine with the GPU's rate."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import onnx
from onnx import inliner, shape_inference

#: The operators that are counted: they are nearly all arithmetic of a network, and the only ones on matrix units.
COUNTED = ("MatMul", "Gemm", "Conv")
#: Operators that contain matrix products but are not counted; a graph with one is refused, since its count would be too
#: low.
_UNCOUNTED = {
    "Attention",
    "ConvInteger",
    "ConvTranspose",
    "Einsum",
    "GRU",
    "If",
    "LSTM",
    "Loop",
    "MatMulInteger",
    "MultiHeadAttention",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
    "Scan",
}

Shape = tuple[int, ...]


def count_flops(graph: Path | onnx.ModelProto, batch: int = 1) -> int:
    """Return the floating-point operations of one run at ``batch``: two per multiply-add of MatMul, Gemm and Conv.

    The batch must be the first dimension of every input of ``graph``; external weight files are not read. Biases,
    activations, normalisations and softmax are not counted, since they do not run on the matrix units.

    Raises:
        ValueError: the size of a product cannot be inferred, or an operator with products is not counted.
    """
    model = onnx.load(graph, load_external_data=False) if isinstance(graph, Path) else graph
    model = _at_batch(inliner.inline_local_functions(model), batch)
    shapes = _shapes(shape_inference.infer_shapes(model, data_prop=True).graph)
    total = 0
    for node in model.graph.node:
        if node.op_type in _UNCOUNTED:
            raise ValueError(f"{node.op_type} ({node.name}) is not counted")
        if node.op_type in COUNTED:
            total += 2 * _multiply_adds(node, shapes)
    return total


def _at_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return a copy of the model with a fixed batch: its symbol is replaced, also in multiples such as ``12*batch``.

    The exporter's shapes between the nodes are kept: shape inference alone fails where a reshape's target is computed.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    graph = fixed.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored and value.type.tensor_type.shape.dim]
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in inputs} - {""}
    multiple = re.compile(rf"(?:(\d+)\*)?(?:{'|'.join(map(re.escape, symbols))})") if symbols else None
    for value in (*graph.input, *graph.value_info, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if multiple and (found := multiple.fullmatch(dim.dim_param)):
                dim.dim_value = batch * int(found[1] or 1)
    for value in inputs:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return fixed


def _shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Return the shape of every tensor with known dimensions, by name."""
    found: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    try:
        left, right, result = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    except KeyError as error:
        raise ValueError(f"the shape of {error} at {node.op_type} {node.name} cannot be inferred") from None
    if node.op_type == "Conv":
        # ``right`` is [out, in / groups, kernel...]: each output value is a sum over all its dimensions but the first.
        return math.prod(result) * math.prod(right[1:])
    inner = left[0] if node.op_type == "Gemm" and _attribute(node, "transA") else left[-1]
    return math.prod(result) * inner


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), 0)
