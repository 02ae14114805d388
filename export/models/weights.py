"""Reading and writing weights as safetensors, in half precision to halve their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from veridict.deploy.manifest import file_sha256

from ..files import replacing


def save_half(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the model's state as fp16 safetensors with string metadata, atomically.

    Integers (BatchNorm's batch counters, which only training reads) are kept as they are.
    """
    state = model.state_dict().items()
    save_tensors({name: value.half() if value.is_floating_point() else value for name, value in state}, path, metadata)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors as safetensors with string metadata, atomically."""
    state = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as partial:
        save_file(state, partial, metadata=metadata)


def seed_everything(seed: int) -> None:
    """Seed torch's generators. Data augmentation derives its own generators from (seed, epoch, index)."""
    torch.manual_seed(seed)


def average_weights(paths: Sequence[Path], output: Path) -> None:
    """Write the mean of several weights of one architecture as fp16 safetensors; integers are the first file's.

    The average of weights before and after further training keeps what both know (Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models").

    Raises:
        ValueError: the files are not of one architecture, or fewer than two.
    """
    states = [load_file(path) for path in paths]
    if len(states) < 2:
        raise ValueError("an average takes at least two files of weights")
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("the files hold different architectures")
    mean = {
        name: torch.stack([s[name].float() for s in states]).mean(dim=0).half() if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    metadata = {f"average_of_{number}": file_sha256(path) for number, path in enumerate(paths)}
    with safe_open(paths[0], "pt") as first:
        metadata["network"] = (first.metadata() or {}).get("network", "")
    save_tensors(mean, output, metadata)
