"""W7A8: a transformer's linear layers in integers, for CPUs with AVX2 and without byte dot products.

AVX2 multiplies unsigned by signed bytes and adds two neighbouring products in 16 bits. With weights of 7 bits (-64 to
64) two products cannot overflow (2 * 255 * 64 = 32,640); with weights of 8 bits they saturate, and the cosine of a
ViT-B/16's embedding falls to 0.4.

The activations of each token are divided by their largest magnitude and rounded to 8 bits (ZeroQuant, Yao et al. 2022).
Before, features that are far larger than the others are made smaller, and their weights larger by as much (SmoothQuant,
Xiao et al. 2023). How large each feature gets is measured on generated images: the mean cosine of the embedding is
0.996 with them and 0.997 with photographs, so the export needs no images.

Where the source refers to stored int8 weights, so does the new graph: it holds the factors and scales alone, and the
runtime computes the weights when it loads the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from veridict.deploy.serving.onnx_network import OnnxNetwork
from veridict.forensics import signature as sig
from veridict.forensics.arrays import AnyArray, Float32Array, Pixels
from veridict.forensics.onnx_runtime import open_session

from ..files import replacing
from .parity import Parity, compare, run_graph

#: ONNX Runtime's domain of the product of integers with a float result.
_DOMAIN = "com.microsoft"
_LARGEST_WEIGHT = 64
_LARGEST_ACTIVATION, _ZERO_POINT = 127, 128
#: Share of a feature's size that moves from the activations to the weights, as an exponent. On 50 images the mean
#: change of the head's logit is 0.05, 0.04 and 0.05 with 0.4, 0.5 and 0.6; the logits' standard deviation is 0.82.
_SMOOTHING = 0.5
_SMALLEST = 1e-5


@dataclass
class _Graph:
    """A graph that is being rewritten.

    ``matrices``: the constant matrices by name. ``linked``: those that a node computes from stored int8 weights.
    ``added``: new constants. ``replaced``: by the output of a node, the nodes that come in its place.
    """

    matrices: dict[str, AnyArray]
    linked: frozenset[str]
    added: list[TensorProto] = field(default_factory=list)
    replaced: dict[str, list[NodeProto]] = field(default_factory=dict)

    def constant(self, name: str, values: AnyArray) -> str:
        """Add an initializer and return its name."""
        self.added.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name


def generated_images(count: int, side: int = 224, seed: int = 0) -> Pixels:
    """Return images uint8 [N, side, side, 3] of coloured noise with the power spectra of photographs.

    The amplitude falls with frequency to a power of 0.6 to 1.6 (1 in the mean of natural images: Field 1987).
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1 / side
    images = []
    for _ in range(count):
        phases = rng.normal(size=(2, 3, *frequency.shape))
        noise = np.fft.irfft2((phases[0] + 1j * phases[1]) / frequency ** rng.uniform(0.6, 1.6), s=(side, side))
        mixed = np.tensordot(0.6 + 0.4 * np.eye(3), noise, 1)  # the three colours of photographs mostly agree
        mixed = (mixed - mixed.mean()) / mixed.std() * rng.uniform(20, 70)
        shifted = mixed + rng.uniform(60, 190) + rng.normal(0, 15, (3, 1, 1))
        images.append(np.clip(shifted, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(images)


def write_w7a8(source: Path, model: sig.Model, path: Path) -> list[Parity]:
    """Write the graph ``source`` of a transformer with W7A8 linear layers to ``path``; return how close it is.

    Raises:
        ValueError: the graph has no linear layer that is applied to tokens.
        ParityError: the new graph is too far from its source on generated images other than those it was made with.
    """
    graph = onnx.load(source, load_external_data=False)
    linked = frozenset(n.output[0] for n in graph.graph.node if n.op_type == "DequantizeLinear")
    complete = onnx.load(source)
    rewritten = _Graph(_matrices(complete), linked)
    linear = [n for n in graph.graph.node if n.op_type == "MatMul" and n.input[1] in rewritten.matrices]
    largest = _largest_activations(complete, [n.input[0] for n in linear], generated_images(16)) if linear else {}
    if not largest:
        raise ValueError(f"{model.name} has no linear layer that is applied to tokens")
    for name, sizes in largest.items():
        _rewrite(rewritten, name, sizes, [n for n in linear if n.input[0] == name])
    _assemble(graph, rewritten)
    with replacing(path) as partial:
        onnx.save(graph, partial)
        held_out = generated_images(8, seed=1)
        expected = run_graph(source, model, held_out)
        parities = compare(model, "w7a8", expected, OnnxNetwork(partial)(held_out))
    return parities


def _matrices(graph: onnx.ModelProto) -> dict[str, AnyArray]:
    """Return the matrices that the graph stores, as int8 with scales or in half precision, as float32 by name."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type in ("DequantizeLinear", "Cast") and all(name in stored for name in node.input):
            values, *scales = (stored[name].astype(np.float32) for name in node.input[:2])
            stored[node.output[0]] = values * scales[0] if scales else values
    return {name: values for name, values in stored.items() if values.ndim == 2}


def _largest_activations(graph: onnx.ModelProto, names: list[str], images: Pixels) -> dict[str, Float32Array]:
    """Return the largest magnitude [K] of each feature of the named tensors, of those that hold tokens [N, T, K].

    The tensors become outputs of ``graph``.
    """
    wanted = list(dict.fromkeys(names))
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = open_session(graph.SerializeToString())
    largest: dict[str, Float32Array] = {}
    for image in images:
        found = session.run(wanted, {session.get_inputs()[0].name: image[None]})
        for name, values in zip(wanted, found, strict=True):
            if values.ndim == 3:
                seen = np.abs(values).max(axis=(0, 1))
                largest[name] = np.maximum(largest.get(name, _SMALLEST), seen)
    return largest


def _rewrite(graph: _Graph, name: str, largest: Float32Array, layers: list[NodeProto]) -> None:
    """Replace the linear layers that read the tensor ``name``: it is quantised once for all of them."""
    weights = [graph.matrices[layer.input[1]] for layer in layers]
    heaviest = np.maximum(np.max([np.abs(w).max(axis=1) for w in weights], axis=0), _SMALLEST)
    factor = (largest**_SMOOTHING / heaviest ** (1 - _SMOOTHING)).astype(np.float32)
    inputs = {key: f"{name}.{key}" for key in ("smooth", "magnitude", "largest", "relative", "int8")}
    scale = graph.constant(f"{name}.scale", np.array(1 / _LARGEST_ACTIVATION, np.float32))
    zero = graph.constant(f"{name}.zero", np.array(_ZERO_POINT, np.uint8))
    axes = graph.constant(f"{name}.axes", np.array([-1], np.int64))
    inverse = graph.constant(f"{name}.inverse", 1 / factor)
    quantising = [
        helper.make_node("Mul", [name, inverse], [inputs["smooth"]]),
        helper.make_node("Abs", [inputs["smooth"]], [inputs["magnitude"]]),
        helper.make_node("ReduceMax", [inputs["magnitude"], axes], [inputs["largest"]]),
        helper.make_node("Div", [inputs["smooth"], inputs["largest"]], [inputs["relative"]]),
        helper.make_node("QuantizeLinear", [inputs["relative"], scale, zero], [inputs["int8"]]),
    ]
    for layer, weight in zip(layers, weights, strict=True):
        smoothed = weight * factor[:, None]
        steps = np.maximum(np.abs(smoothed).max(axis=0), _SMALLEST) / _LARGEST_WEIGHT
        stored, made = _integers(graph, layer.input[1], factor, steps, smoothed)
        product = f"{layer.output[0]}.relative"
        operands = [inputs["int8"], stored, scale, graph.constant(f"{stored}.steps", steps), zero]
        graph.replaced[layer.output[0]] = [
            *made,
            helper.make_node("MatMulIntegerToFloat", operands, [product], domain=_DOMAIN),
            helper.make_node("Mul", [product, inputs["largest"]], list(layer.output)),
        ]
    first = layers[0].output[0]
    graph.replaced[first] = [*quantising, *graph.replaced[first]]


def _integers(
    graph: _Graph, weight: str, factor: Float32Array, steps: Float32Array, smoothed: Float32Array
) -> tuple[str, list[NodeProto]]:
    """Return the name of a layer's weights int8 [K, N], and the nodes that compute them from its stored weights."""
    name = f"{weight}.w7"
    if weight not in graph.linked:
        return graph.constant(name, np.rint(smoothed / steps).astype(np.int8)), []
    scaled, parts, rounded = (f"{name}.{part}" for part in ("smooth", "steps_of", "rounded"))
    rows = graph.constant(f"{name}.factor", factor[:, None])
    return name, [
        helper.make_node("Mul", [weight, rows], [scaled]),
        helper.make_node("Div", [scaled, f"{name}.steps"], [parts]),
        helper.make_node("Round", [parts], [rounded]),
        helper.make_node("Cast", [rounded], [name], to=TensorProto.INT8),
    ]


def _assemble(graph: onnx.ModelProto, rewritten: _Graph) -> None:
    """Put the new nodes in place of the layers, and drop what nothing reads any more."""
    body = graph.graph
    nodes: list[NodeProto] = []
    for node in body.node:
        nodes += rewritten.replaced.get(node.output[0], [node])
    read = {name for node in nodes for name in node.input} | {tensor.name for tensor in body.output}
    nodes = [node for node in nodes if any(name in read for name in node.output)]
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in (*body.initializer, *rewritten.added) if tensor.name in read]
    del body.node[:], body.initializer[:]
    body.node.extend(nodes)
    body.initializer.extend(kept)
    graph.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
