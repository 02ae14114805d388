"""The face finder's network (YuNet) and its export to the graph that ``forensics.faces`` runs.

Architecture: Wu, Peng & Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023). Depthwise-separable stages lead
down to stride 32. A small feature pyramid follows. Its heads give a score and a box per cell at strides 8, 16 and 32.
The weights come from libfacedetection (BSD-3-Clause); see the model card.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from ..bundled import WEIGHTS
from ..convert.onnx_export import strip_traces

WEIGHTS_FILE = WEIGHTS / "face-finder.safetensors"


class Separable(nn.Module):
    """A pointwise and then a depthwise 3x3 convolution; with ``relu``, a ReLU follows the second one."""

    def __init__(self, channels: int, filters: int, relu: bool = True) -> None:
        """Build with random weights."""
        super().__init__()
        self.pointwise = nn.Conv2d(channels, filters, 1)
        self.depthwise = nn.Conv2d(filters, filters, 3, padding=1, groups=filters)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, filters, H, W] of [N, channels, H, W]."""
        x = self.depthwise(self.pointwise(x))
        return nn.functional.relu(x) if self.relu else x


def _stage(channels: int, filters: int) -> nn.Sequential:
    return nn.Sequential(Separable(channels, channels), Separable(channels, filters))


class FaceFinder(nn.Module):
    """RGB pixels uint8 [N, H, W, 3], H and W multiples of 32 -> three maps float32 [N, 5, H/s, W/s], s = 8, 16, 32.

    Channels: score in 0..1; distance from the cell to the centre of the box in cells (x, y); logarithm of the width and
    height of the box in cells.
    """

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.first = Separable(16, 16)
        channels = (16, 32, 64, 64, 64, 64)
        self.stages = nn.ModuleList(_stage(a, b) for a, b in pairwise(channels))
        self.necks = nn.ModuleList(Separable(64, 64) for _ in range(3))
        heads = {"face": 1, "objectness": 1, "box": 4}
        self.heads = nn.ModuleDict(
            {name: nn.ModuleList(Separable(64, n, relu=False) for _ in range(3)) for name, n in heads.items()}
        )

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the maps of strides 8, 16 and 32."""
        x = self.first(nn.functional.relu(self.stem(pixels.to(torch.float32).permute(0, 3, 1, 2))))
        levels = []
        for index, stage in enumerate(self.stages):
            if index != 1:  # the first two stages share a resolution
                x = nn.functional.max_pool2d(x, 2)
            x = stage(x)
            levels.append(x)
        features: list[torch.Tensor] = []
        above: torch.Tensor | None = None
        for neck, level in zip(reversed(self.necks), reversed(levels[2:]), strict=True):
            if above is not None:
                level = level + nn.functional.interpolate(above, scale_factor=2, mode="nearest")
            above = neck(level)
            features.insert(0, above)
        maps = []
        for index, feature in enumerate(features):
            face = torch.sigmoid(self.heads["face"][index](feature))
            objectness = torch.sigmoid(self.heads["objectness"][index](feature))
            maps.append(torch.cat([(face * objectness).sqrt(), self.heads["box"][index](feature)], dim=1))
        return tuple(maps)


def load_face_finder(path: Path = WEIGHTS_FILE) -> FaceFinder:
    """Return the network with the weights from a safetensors file."""
    from safetensors.torch import load_file

    model = FaceFinder()
    model.load_state_dict(load_file(path))
    return model.eval()


def export_face_finder(path: Path, weights: Path = WEIGHTS_FILE) -> None:
    """Write the ONNX graph; its batch size, height and width are dynamic."""
    import onnx

    names = ("MAP_8", "MAP_16", "MAP_32")
    rows, columns = (torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    axes = {0: torch.export.Dim("batch", min=1, max=64), 1: 32 * rows, 2: 32 * columns}
    program = torch.onnx.export(
        load_face_finder(weights),
        (torch.zeros(2, 192, 320, 3, dtype=torch.uint8),),
        dynamo=True,
        input_names=["PIXELS"],
        output_names=list(names),
        dynamic_shapes=(axes,),
        verbose=False,
    )
    assert program is not None
    graph = program.model_proto
    strip_traces(graph)
    onnx.checker.check_model(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, path)
