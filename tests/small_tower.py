"""The bundled repository with a tiny image tower, for tests of serving that do not care what the networks say.

CLIP's image tower is most of what a server loads and computes. Everything else is as it is served: the other networks,
the models' code and the configurations. The verdicts of such a server mean nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from veridict.deploy.manifest import DERIVED_FILES, default_repository, read_manifest, write_manifest
from veridict.forensics import signature as sig


def make_small_tower() -> onnx.ModelProto:
    """Return a graph with the tower's tensors: random projections of a picture's mean colour."""
    rng = np.random.default_rng(0)
    stored = {
        "to_embedding": rng.normal(size=(3, sig.EMBEDDING)).astype(np.float32),
        "to_tokens": rng.normal(size=(3, int(np.prod(sig.INTERMEDIATES)))).astype(np.float32),
        "shape": np.array([-1, *sig.INTERMEDIATES], np.int64),
        "axes": np.array([1, 2], np.int64),
    }
    pixels, outputs = sig.CLIP_PIXELS, sig.CLIP_IMAGE.outputs
    nodes = [
        helper.make_node("Cast", [pixels.name], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "to_embedding"], ["direction"]),
        helper.make_node("LpNormalization", ["direction"], [sig.EMBEDDING_OUT.name], axis=1, p=2),
        helper.make_node("MatMul", ["colour", "to_tokens"], ["tokens"]),
        helper.make_node("Reshape", ["tokens", "shape"], [sig.INTERMEDIATES_OUT.name]),
    ]
    graph = helper.make_graph(
        nodes,
        "small_tower",
        [helper.make_tensor_value_info(pixels.name, TensorProto.UINT8, ["rows", *pixels.dims])],
        [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, ["rows", *tensor.dims]) for tensor in outputs],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def make_small_repository(target: Path) -> Path:
    """Write the repository to ``target`` and return it."""
    ignored = shutil.ignore_patterns("__pycache__", "clip-*.safetensors")
    repository = shutil.copytree(default_repository(), target, ignore=ignored)
    folder = repository / sig.CLIP_IMAGE.name / "1"
    for derived in DERIVED_FILES:
        (folder / derived).unlink(missing_ok=True)  # made of the tower that is replaced
    onnx.save(make_small_tower(), folder / "model.onnx")
    manifest = read_manifest(repository)
    kept = {n: (w.weights, w.weight_files) for n, w in manifest.networks.items() if n != sig.CLIP_IMAGE.name}
    write_manifest(repository, manifest.source, kept)
    return repository
