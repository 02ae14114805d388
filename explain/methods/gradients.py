"""What the torch methods share: images as tensors, cancellable forward passes, the baseline and a quality figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from veridict.forensics.arrays import Pixels

from ..attribution import Cancellation

#: Images per pass through a network. One image takes some 40 ms forward and backward on one core, so that a verdict
#: waits no longer for the next :meth:`Cancellation.check`. Larger batches are not faster on one core (35 ms per image
#: at 1, 41 ms at 16).
BATCH = 1


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """Return uint8 pixels [H, W, 3] as a float batch [1, H, W, 3] in 0..255; the network normalises them."""
    return torch.from_numpy(pixels.copy()).to(torch.float32)[None]


def cancellable(module: Any, cancellation: Cancellation, batch: int = BATCH) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the module as a function float [N, H, W, 3] -> [N] that checks for cancellation every ``batch`` images."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        parts = []
        for rows in pixels.split(batch):
            cancellation.check()
            parts.append(module(rows)[:, 0])
        return torch.cat(parts)

    return forward


def mean_baseline(pixels: torch.Tensor) -> torch.Tensor:
    """Return a flat image of the mean colour, shaped as ``pixels`` [1, H, W, 3].

    With a black baseline x - x0 is zero in dark pixels, which hides evidence there (Sturmfels et al., Distill 2020).
    The face CNN looks for structure and noise residual, and a flat image of the mean colour has neither.
    """
    return pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels).contiguous()


def infidelity(
    forward: Callable[[torch.Tensor], torch.Tensor],
    pixels: torch.Tensor,
    attributions: torch.Tensor,
    baseline: torch.Tensor | None = None,
    seed: int = 0,
) -> float:
    """Return the infidelity (Yeh et al. 2019) of attributions [1, H, W, 3] over 8 noises of 4 grey levels; 0 is best.

    ``baseline``: if given, the attributions were multiplied by x - ``baseline`` and are divided by it again, as the
    paper does for integrated gradients. Captum rescales the attributions first, so the figure judges their pattern and
    not their size.
    """
    from captum.metrics import infidelity as captum_infidelity

    generator = torch.Generator().manual_seed(seed)

    def perturb(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = torch.randn(x.shape, generator=generator) * 4.0
        if baseline is None:
            return noise, x - noise
        difference = x - baseline
        return torch.where(difference.abs() > 1e-3, noise / difference, 0.0), x - noise

    with torch.no_grad():
        found = captum_infidelity(
            forward, perturb, pixels, attributions, n_perturb_samples=8, max_examples_per_batch=8, normalize=True
        )
    return float(found.item())
