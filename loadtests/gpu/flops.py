"""Counts a network's arithmetic from its ONNX graph, to set what an engine reaches against what the chip can do."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import onnx
from onnx import inliner, shape_inference

#: What is counted: these carry nearly all arithmetic of a network, and matrix units compute nothing else.
COUNTED = ("MatMul", "Gemm", "Conv")
#: Products of matrices under other names; counting nothing for them would flatter nobody but mislead.
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

    ``graph`` has its batch as the first dimension of every input; weights in files beside it are not read. Additions of
    biases, activations, normalisations and softmax are left out: they do not run on the matrix units.

    Raises:
        ValueError: the size of a product cannot be inferred, or there is a product of a kind that is not counted.
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
    """Return a copy with this batch in place of the graph's symbol for it, also in multiples such as ``12*batch``.

    Exporters note the shapes between the nodes; inference alone loses them where a reshape's target is computed.
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
    """Return the shape of every tensor whose dimensions are all known."""
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
        # right is [out, in / groups, kernel...]: each value of the result sums over all but its first dimension.
        return math.prod(result) * math.prod(right[1:])
    inner = left[0] if node.op_type == "Gemm" and _attribute(node, "transA") else left[-1]
    return math.prod(result) * inner


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), 0)
