"""CLIP's vision transformer written out for export: batch first, with the class token of every block.

The computation and the weights are those of open_clip's ``VisionTransformer`` (ViT-B/32, B/16, L/14 and their QuickGELU
variants; Dosovitskiy et al. 2021, Radford et al. 2021). It is written out because ``nn.MultiheadAttention`` exports as
hundreds of reshapes that no runtime recognises as attention; OpenVINO and TensorRT fuse this form. The last block
computes its class token only, since its other tokens are not used: a twelfth of a ViT-B's work less for the same
numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: Number of blocks whose class tokens are served.
BLOCKS = 7


def served_blocks(depth: int) -> list[int]:
    """Return the indices, from 0, of the blocks whose class tokens are served, spread over the upper half."""
    return sorted({round(depth / 2 + step * depth / 2 / (BLOCKS - 1)) - 1 for step in range(BLOCKS)})


def is_plain_vit(visual: Any) -> bool:
    """Return whether a tower of open_clip is the plain vision transformer that :class:`VitTower` knows."""
    from ..torch_setup import import_open_clip

    transformer = getattr(import_open_clip(), "transformer", None)
    return (
        transformer is not None
        and type(visual) is transformer.VisionTransformer
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.final_ln_after_pool
        and visual.proj is not None
        and all(type(block) is transformer.ResidualAttentionBlock for block in visual.transformer.resblocks)
    )


class VitTower(nn.Module):
    """Normalised pixels [N, 3, S, S] -> projected class token [N, D] and the class token of every block [N, L, W].

    ``visual`` is an open_clip ``VisionTransformer`` for which :func:`is_plain_vit` holds.
    """

    def __init__(self, visual: Any) -> None:
        """Wrap the tower and share its weights; the projections of queries, keys and values are copied."""
        super().__init__()
        self.visual = visual
        self.blocks = nn.ModuleList(_Block(block) for block in visual.transformer.resblocks)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(patches.shape[0], 1, -1)
        x = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
        tokens = []
        for block in self.blocks[:-1]:
            x = block(x, x)
            tokens.append(x[:, :1])
        x = self.blocks[-1](x[:, :1], x)
        tokens.append(x)
        return visual.ln_post(x)[:, 0] @ visual.proj, torch.cat(tokens, dim=1)


class _Block(nn.Module):
    """One residual block: tokens ``x`` [N, T, W], the first T of ``context`` [N, C, W], attend to ``context``."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block
        attention = block.attn
        self.width, self.heads = attention.embed_dim, attention.num_heads
        # The attention's scale is multiplied into the query's projection. For heads of 64 it is a power of two: exact.
        scale = (self.width // self.heads) ** -0.5
        weights = attention.in_proj_weight.detach().chunk(3)
        biases = attention.in_proj_bias.detach().chunk(3)
        for name, weight, bias, factor in zip(("query", "key", "value"), weights, biases, (scale, 1, 1), strict=True):
            self.register_buffer(f"{name}_weight", (weight * factor).T.contiguous())
            self.register_buffer(f"{name}_bias", bias * factor)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        block, rows = self.block, self.block.ln_1(context)
        query = self._split(rows[:, : x.shape[1]] @ self.query_weight + self.query_bias)
        key = self._split(rows @ self.key_weight + self.key_bias)
        value = self._split(rows @ self.value_weight + self.value_bias)
        mixed = (query @ key.transpose(2, 3)).softmax(dim=-1) @ value
        x = x + block.ls_1(block.attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        return x + block.ls_2(block.mlp(block.ln_2(x)))

    def _split(self, rows: torch.Tensor) -> torch.Tensor:
        """Return [N, heads, T, W / heads] of rows [N, T, W]."""
        return rows.unflatten(2, (self.heads, self.width // self.heads)).transpose(1, 2)
