"""PyTorch -> ONNX for the three networks, each checked against PyTorch before it is kept.

Every graph takes the pixels as they are (uint8, batch dimension dynamic) and normalises inside, so no caller can get
the preprocessing wrong.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from veridict.forensics import signature as sig

from .clip_model import Backbone
from .parity import Parity, ParityError, compare, run_graph

_SMALLEST_HALVED = 1024


class ImageEncoder(nn.Module):
    """CLIP's image tower: pixels uint8 [N, H, W, 3] -> unit-length embedding float32 [N, D], intermediates [N, I].

    The intermediates are the mean and the standard deviation of every channel of two layers, half-way and three
    quarters up the tower. What betrays a generator is fine structure, which the last layer has given up for meaning:
    on 136 pictures from the web a linear model of these layers alone ranks at AUC 0.87, one of the compact CLIP's
    embedding at 0.78 (cross-validated). Source: RINE (Koutlis & Papadopoulos 2024), with pooled statistics in place of
    class tokens, which convolutional towers do not have.

    With half-precision weights the tower runs in half precision; normalisation on both ends stays in float32.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Wrap a loaded backbone."""
        super().__init__()
        self.model = backbone.model
        self.mean = [255.0 * value for value in backbone.mean]
        self.std = [255.0 * value for value in backbone.std]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        # Cast before transposing: TensorRT refuses a Transpose of uint8.
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        x = (pixels.to(torch.float32).permute(0, 3, 1, 2) - mean) / std
        dtype = next(self.model.visual.parameters()).dtype
        seen = self.model.visual.forward_intermediates(x.to(dtype), normalize_intermediates=False)
        layers = seen["image_intermediates"]  # maps [N, C, h, w] of every stage or block
        pooled = []
        for layer in (layers[len(layers) // 2].float(), layers[len(layers) * 3 // 4].float()):
            mean = layer.mean(dim=(2, 3), keepdim=True)
            pooled += [mean[:, :, 0, 0], ((layer - mean) ** 2).mean(dim=(2, 3)).add(1e-6).sqrt()]
        return nn.functional.normalize(seen["image_features"].float(), dim=-1), torch.cat(pooled, dim=1)


def count_intermediates(backbone: Backbone) -> int:
    """Return how many intermediates the backbone's image tower gives per picture."""
    with torch.inference_mode():
        return int(ImageEncoder(backbone)(example_pixels(backbone.size, 1))[1].shape[1])


class TextEncoder(nn.Module):
    """CLIP's text tower: tokens int32 [N, context] -> unit-length embedding float32 [N, D]."""

    def __init__(self, backbone: Backbone) -> None:
        """Wrap a loaded backbone."""
        super().__init__()
        self.model = backbone.model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, D]."""
        return nn.functional.normalize(self.model.encode_text(tokens.to(torch.int64)).float(), dim=-1)


def export_onnx(
    module: nn.Module, example: torch.Tensor, model: sig.Model, path: Path, precision: str = "fp32"
) -> list[Parity]:
    """Write ``module`` to ``path`` with the signature's tensor names and a dynamic batch, and check every output.

    ``example`` is one valid batch of at least 2 rows. ``precision`` fp32 stores large weights in half precision, cast
    when the graph is loaded: half the file, and no cost afterwards. fp16 computes in half precision too, with casts in
    the graph, as strongly typed TensorRT wants it.

    Raises:
        ParityError: ONNX Runtime's rows are not those of PyTorch in fp32.
    """
    (wanted,) = model.inputs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    expected = run_module(module.eval(), example)
    batch = torch.export.Dim("batch", min=1, max=model.max_batch_size)
    program = torch.onnx.export(
        copy.deepcopy(module).half() if precision == "fp16" else module,
        (example,),
        dynamo=True,
        input_names=[wanted.name],
        output_names=[produced.name for produced in model.outputs],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    if program is None:
        raise ParityError(f"{model.name}: the exporter returned nothing")
    graph = program.model_proto
    strip_traces(graph)
    if precision == "fp32":
        _halve_weights(graph)
    onnx.checker.check_model(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    onnx.save(graph, partial)
    actual = run_graph(partial, model, example.numpy(), optimised=precision == "fp32")
    parities = compare(model, precision, expected, actual)
    partial.replace(path)
    return parities


@torch.inference_mode()
def run_module(module: nn.Module, rows: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    """Return every output's rows [N, ...] of a module that returns a tensor or a tuple of them."""
    results = module(rows)
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


def strip_traces(graph: onnx.ModelProto) -> None:
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


def example_pixels(side: int, rows: int = 8, seed: int = 0) -> torch.Tensor:
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
