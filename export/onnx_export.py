"""PyTorch -> ONNX for the three networks, each checked against PyTorch before it is kept.

Every graph takes the pixels as they are (uint8, batch dimension dynamic) and normalises inside, so no caller can get
the preprocessing wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from veridict.forensics import signature as sig

from .clip_model import Backbone

#: The lowest cosine between a PyTorch row and its ONNX row that an fp32 graph may have.
PARITY = 0.999
_SMALLEST_HALVED = 1024


class ParityError(RuntimeError):
    """An exported graph does not compute what its PyTorch source computes; it is not installed."""


class ImageEncoder(nn.Module):
    """CLIP's image tower: pixels uint8 [N, H, W, 3] -> unit-length embedding float32 [N, D]."""

    def __init__(self, backbone: Backbone) -> None:
        """Wrap a loaded backbone."""
        super().__init__()
        self.model = backbone.model
        self.register_buffer("mean", torch.tensor(backbone.mean).reshape(1, 3, 1, 1) * 255.0)
        self.register_buffer("std", torch.tensor(backbone.std).reshape(1, 3, 1, 1) * 255.0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, D]."""
        # Cast before transposing: TensorRT refuses a Transpose of uint8.
        x = (pixels.to(torch.float32).permute(0, 3, 1, 2) - self.mean) / self.std
        embedding: torch.Tensor = self.model.encode_image(x, normalize=True)
        return embedding


class TextEncoder(nn.Module):
    """CLIP's text tower: tokens int32 [N, context] -> unit-length embedding float32 [N, D]."""

    def __init__(self, backbone: Backbone) -> None:
        """Wrap a loaded backbone."""
        super().__init__()
        self.model = backbone.model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, D]."""
        embedding: torch.Tensor = self.model.encode_text(tokens.to(torch.int64), normalize=True)
        return embedding


@dataclass(frozen=True)
class Parity:
    """How close an artefact is to PyTorch fp32 on random inputs: lowest row cosine and largest absolute difference."""

    model: str
    lowest_cosine: float
    largest_difference: float


def export_onnx(module: nn.Module, example: torch.Tensor, model: sig.Model, path: Path) -> Parity:
    """Write ``module`` to ``path`` with the signature's tensor names and a dynamic batch, and check it.

    ``example`` is one valid batch of at least 2 rows. Weights of more than 1024 elements are stored in half precision
    and cast when the graph is loaded, which halves the file and costs nothing afterwards.

    Raises:
        ParityError: ONNX Runtime's rows are not those of PyTorch.
    """
    (wanted,), (produced,) = model.inputs, model.outputs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch = torch.export.Dim("batch", min=1, max=model.max_batch_size)
    program = torch.onnx.export(
        module.eval(),
        (example,),
        dynamo=True,
        input_names=[wanted.name],
        output_names=[produced.name],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    if program is None:
        raise ParityError(f"{model.name}: the exporter returned nothing")
    graph = program.model_proto
    _strip_traces(graph)
    _halve_weights(graph)
    onnx.checker.check_model(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    onnx.save(graph, partial)
    parity = check_parity(module, example, model, partial)
    partial.replace(path)
    return parity


def check_parity(
    module: nn.Module, example: torch.Tensor, model: sig.Model, path: Path, lowest: float = PARITY
) -> Parity:
    """Return how close the graph is to ``module`` on ``example``; single outputs are compared as one row.

    Raises:
        ParityError: the lowest cosine is below ``lowest``.
    """
    import onnxruntime

    (wanted,), (produced,) = model.inputs, model.outputs
    with torch.inference_mode():
        expected = module(example).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    actual = session.run([produced.name], {wanted.name: example.numpy()})[0]
    if actual.shape != expected.shape:
        raise ParityError(f"{model.name}: ONNX gives {actual.shape}, PyTorch {expected.shape}")
    a, b = (x.reshape(1, -1) if x.shape[1] == 1 else x for x in (expected, actual))
    cosine = (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
    parity = Parity(model.name, float(cosine.min()), float(np.abs(a - b).max()))
    if not parity.lowest_cosine >= lowest:
        raise ParityError(f"{model.name}: cosine {parity.lowest_cosine:.5f} to PyTorch is below {lowest}")
    return parity


def _strip_traces(graph: onnx.ModelProto) -> None:
    """Drop what the exporter notes of its own run: stack traces with local paths, names of Python modules."""
    holders = [graph, graph.graph, *graph.functions]
    for part in (graph.graph, *graph.functions):
        holders += [*part.node, *part.value_info]
    holders += [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]
    for holder in holders:
        holder.doc_string = ""
        del holder.metadata_props[:]


def _halve_weights(graph: onnx.ModelProto) -> None:
    """Store large float initialisers as fp16 behind a Cast, which every runtime folds away at load."""
    kept, casts = [], []
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _SMALLEST_HALVED or np.abs(values).max() > 6e4:
            kept.append(tensor)
            continue
        stored = f"{tensor.name}.fp16"
        kept.append(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [tensor.name], name=f"{stored}.cast", to=TensorProto.FLOAT))
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def example_pixels(side: int, rows: int = 4, seed: int = 0) -> torch.Tensor:
    """Return smooth random pictures uint8 [rows, side, side, 3]; white noise would excite nothing the networks know."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (rows, 3, 12, 12)).astype(np.float32))
    fine = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)
    return fine.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def networks(backbone: Backbone, face_cnn: nn.Module) -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    """Return, per engine model, what makes its (module, example batch)."""
    texts = ["a real image", "a deepfake image", "a photo of a landscape"]
    return {
        "clip_image": lambda: (ImageEncoder(backbone), example_pixels(backbone.size)),
        "clip_text": lambda: (TextEncoder(backbone), backbone.tokenizer(texts).to(torch.int32)),
        "face_cnn": lambda: (face_cnn, example_pixels(sig.FACE_SIZE)),
    }
