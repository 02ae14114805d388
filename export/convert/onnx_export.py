"""PyTorch -> ONNX for the three networks; a graph is kept only if it agrees with PyTorch.

Every graph takes plain pixels (uint8, dynamic batch dimension) and normalises them itself, so no caller can get the
preprocessing wrong.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from veridict.forensics import signature as sig
from veridict.forensics.arrays import Float32Array

from ..files import replacing
from ..models.clip_model import Backbone
from ..models.clip_weights import link_weights
from ..models.vit_tower import VitTower, is_plain_vit, served_blocks
from .parity import Parity, ParityError, compare, run_graph

_SMALLEST_HALVED = 1024


class ImageEncoder(nn.Module):
    """CLIP's image tower: pixels uint8 [N, H, W, 3] -> unit-length embedding [N, D], intermediates [N, K, W], float32.

    The intermediates are the class tokens of seven blocks, evenly spread over the upper half of the tower. Generators
    leave their traces in fine structure, which the last block has discarded in favour of meaning: on images of unseen
    sources, linear heads on the middle blocks of ViT-B/16 have an AUC 0.07 higher than heads on the last block. Source:
    RINE (Koutlis & Papadopoulos 2024). A tower without class tokens (convolutional, pooled) gives its embedding as the
    only intermediate.

    With half-precision weights the tower runs in half precision; normalisation on both ends stays in float32.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Wrap a loaded backbone."""
        super().__init__()
        plain = is_plain_vit(backbone.visual)
        self.tower = VitTower(backbone.visual) if plain else _OtherTower(backbone.visual)
        self.mean = [255.0 * value for value in backbone.mean]
        self.std = [255.0 * value for value in backbone.std]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        # Cast before transposing: TensorRT refuses a Transpose of uint8.
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        x = (pixels.to(torch.float32).permute(0, 3, 1, 2) - mean) / std
        features, tokens = self.tower(x.to(next(self.tower.parameters()).dtype))
        embedding = nn.functional.normalize(features.float(), dim=-1)
        if tokens is None:
            return embedding, embedding[:, None]
        chosen = served_blocks(tokens.shape[1])
        return embedding, torch.stack([tokens[:, block] for block in chosen], dim=1).float()


class _OtherTower(nn.Module):
    """Any other image tower of open_clip: normalised pixels -> features [N, D], and class tokens [N, L, W] or None."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen = self.visual.forward_intermediates(pixels, output_extra_tokens=True)
        prefix = seen.get("image_intermediates_prefix")
        # Some towers have several prefix tokens; the first is the class token.
        tokens = torch.stack([block[:, 0] for block in prefix], dim=1) if prefix else None
        return seen["image_features"], tokens


def intermediate_shape(backbone: Backbone) -> tuple[int, int]:
    """Return the shape (blocks, width) of the intermediates of one image."""
    with torch.inference_mode():
        _, intermediates = ImageEncoder(backbone)(example_pixels(backbone.size, 1))
    return int(intermediates.shape[1]), int(intermediates.shape[2])


class TextEncoder(nn.Module):
    """CLIP's text tower: tokens int32 [N, context] -> unit-length embedding float32 [N, D]."""

    def __init__(self, backbone: Backbone) -> None:
        """Wrap a loaded backbone."""
        super().__init__()
        self.text = backbone.text

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, D]."""
        return nn.functional.normalize(self.text(tokens.to(torch.int64)).float(), dim=-1)


def export_onnx(
    module: nn.Module,
    example: torch.Tensor,
    model: sig.Model,
    path: Path,
    precision: str = "fp32",
    shards: Sequence[Path] = (),
) -> list[Parity]:
    """Write ``module`` to ``path`` with the signature's tensor names and a dynamic batch, and check every output.

    ``example`` is one valid batch of at least 2 rows. With ``precision`` fp32 large weights are stored in half
    precision and cast when the graph is loaded: the file is half as large and runs as fast. With fp16 the graph also
    computes in half precision and contains the casts that strongly typed TensorRT needs. ``shards`` are files of int8
    weights in the folder of ``path``; an fp32 graph refers to them and stores no weights of its own.

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
    if precision == "fp32" and not (shards and link_weights(graph, shards)):
        _halve_weights(graph)
    with replacing(path) as partial:
        onnx.save(graph, partial)
        onnx.checker.check_model(partial)  # given the path, it finds external data
        actual = run_graph(partial, model, example.numpy(), optimised=precision == "fp32")
        parities = compare(model, precision, expected, actual)
    return parities


@torch.inference_mode()
def run_module(module: nn.Module, rows: torch.Tensor) -> list[Float32Array]:
    """Return every output's rows [N, ...] of a module that returns a tensor or a tuple of them."""
    results = module(rows)
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


def strip_traces(graph: onnx.ModelProto) -> None:
    """Remove the exporter's notes on its own run: stack traces with local paths, names of Python modules."""
    holders = [graph, graph.graph, *graph.functions]
    for part in (graph.graph, *graph.functions):
        holders += [*part.node, *part.value_info]
    holders += [*graph.graph.input, *graph.graph.output, *graph.graph.initializer]
    for holder in holders:
        holder.doc_string = ""
        del holder.metadata_props[:]


def _halve_weights(graph: onnx.ModelProto) -> None:
    """Store large float initialisers as fp16 with a Cast to float; every runtime applies the Cast once, at load."""
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
    """Return smooth random images uint8 [rows, side, side, 3]; networks hardly respond to white noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (rows, 3, 12, 12)).astype(np.float32))
    fine = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)
    return fine.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()


def networks(backbone: Backbone, face_cnn: nn.Module) -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    """Return, per network, a function that makes its module and an example batch."""
    texts = ["a real image", "a deepfake image", "a photo of a landscape"]
    return {
        "clip_image": lambda: (ImageEncoder(backbone), example_pixels(backbone.size)),
        "clip_text": lambda: (TextEncoder(backbone), backbone.tokenizer(texts).to(torch.int32)),
        "face_cnn": lambda: (face_cnn, example_pixels(sig.FACE_SIZE)),
    }
