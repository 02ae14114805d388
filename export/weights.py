"""Saving weights as safetensors in half precision, which halves what the repository carries."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


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
