"""Saving weights as safetensors in half precision, which halves what the repository carries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from veridict.deploy.repository import file_sha256


def save_half(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the model's state as fp16 safetensors with string metadata, atomically.

    BatchNorm's batch counters are integers that only training reads; they are kept as they are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: (value.detach().half() if value.is_floating_point() else value.detach()).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata=metadata)
    partial.replace(path)


def seed_everything(seed: int) -> None:
    """Seed torch's generators; data augmentation derives its own generators from (seed, epoch, index)."""
    torch.manual_seed(seed)


def average_weights(paths: Sequence[Path], output: Path) -> None:
    """Write the mean of several weights of one architecture as fp16 safetensors; integers are the first file's.

    Weights before and after further training, averaged, hold on to what either knows (Wortsman et al. 2022, "Robust
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
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {f"average_of_{number}": file_sha256(path) for number, path in enumerate(paths)}
    with safe_open(paths[0], "pt") as first:
        metadata["network"] = (first.metadata() or {}).get("network", "")
    partial = output.with_suffix(".partial")
    save_file(mean, partial, metadata=metadata)
    partial.replace(output)
