"""Low-rank updates of a CLIP vision transformer's blocks: training them, and merging them into the weights.

LoRA (Hu et al. 2021): a frozen matrix W [out, in] becomes W + U D with D [rank, in] random and U [out, rank] zero, so
training begins at the frozen tower. Queries, keys, values, the attention's output and both matrices of the MLP are
updated. LoRA's factor alpha / rank is 1, since the learning rate scales the updates already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from ..models.clip_model import Backbone
from ..models.vit_tower import is_plain_vit, served_blocks


class LowRank(nn.Module):
    """The update of one matrix: rows [..., in] -> rows [..., out] to add to the frozen layer's output."""

    def __init__(self, matrix: torch.Tensor, rank: int, generator: torch.Generator) -> None:
        """Make an update for a matrix [out, in]; it starts at zero."""
        super().__init__()
        outputs, inputs = matrix.shape
        self.down = nn.Parameter(torch.randn(rank, inputs, generator=generator) * inputs**-0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows to add."""
        return linear(linear(rows, self.down), self.up)

    def delta(self) -> torch.Tensor:
        """Return the update as a matrix [out, in]."""
        return self.up @ self.down


class TunedEncoder(nn.Module):
    """``ImageEncoder``'s computation with low-rank updates of some blocks, for training.

    ``updates`` holds everything that is trained: index of a tuned block, from 0 -> an update per matrix. The tower
    itself is frozen. With ``half`` the blocks run under autocast in bfloat16; normalisation and projection stay in
    float32.
    """

    def __init__(
        self, backbone: Backbone, blocks: Sequence[int] = (), rank: int = 16, seed: int = 0, half: bool = False
    ) -> None:
        """Wrap a backbone's image tower.

        Raises:
            ValueError: the tower is not a plain vision transformer, or a block or the rank is out of range.
        """
        super().__init__()
        if not is_plain_vit(backbone.visual):
            raise ValueError(f"{backbone.name} is no plain vision transformer: its blocks cannot be tuned")
        self.visual = backbone.visual.requires_grad_(False).eval()
        depth = len(self.visual.transformer.resblocks)
        if any(not 0 <= number < depth for number in blocks):
            raise ValueError(f"the tower has blocks 1 to {depth}, not {min(blocks) + 1} to {max(blocks) + 1}")
        if blocks and rank < 1:
            raise ValueError(f"the rank is at least 1, not {rank}")
        generator = torch.Generator().manual_seed(seed)
        resblocks = self.visual.transformer.resblocks
        self.updates = nn.ModuleDict({str(n): _make_updates(resblocks[n], rank, generator) for n in blocks})
        self.first = min(blocks, default=depth)
        self.half = half
        self.served = served_blocks(depth)
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, 255.0 * torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit-length embeddings [N, D] and class tokens [N, K, W] float32 of pixels uint8 [N, S, S, 3]."""
        rows, tokens = self._frozen_part(pixels)
        return self._finish(rows, tokens, True)

    def forward_both(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return embeddings and class tokens as ``forward`` does, and the frozen tower's embeddings [N, D].

        The blocks below the tuned ones run once for both.
        """
        rows, tokens = self._frozen_part(pixels)
        embedding, tuned = self._finish(rows, tokens, True)
        with torch.no_grad():
            frozen, _ = self._finish(rows, tokens, False)
        return embedding, tuned, frozen

    def merged_state(self) -> dict[str, torch.Tensor]:
        """Return the tower's float32 state in open_clip's names (``visual.*``), with the updates merged into it."""
        state = {f"visual.{name}": value.detach().clone() for name, value in self.visual.state_dict().items()}
        for number, updates in self.updates.items():
            prefix = f"visual.transformer.resblocks.{number}"
            deltas = {name: update.delta().detach() for name, update in updates.items()}
            joined = torch.cat([deltas[name] for name in ("query", "key", "value")])
            state[f"{prefix}.attn.in_proj_weight"] += joined
            state[f"{prefix}.attn.out_proj.weight"] += deltas["out"]
            state[f"{prefix}.mlp.c_fc.weight"] += deltas["widen"]
            state[f"{prefix}.mlp.c_proj.weight"] += deltas["narrow"]
        return state

    def _autocast(self, rows: torch.Tensor) -> Any:
        return torch.autocast(rows.device.type, torch.bfloat16, enabled=self.half)

    @torch.no_grad()
    def _frozen_part(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the tokens [N, T, W] that enter the first tuned block, and the class tokens of all blocks before."""
        visual = self.visual
        pixels = (pixels.to(torch.float32).permute(0, 3, 1, 2) - self.mean) / self.std
        with self._autocast(pixels):
            patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
            first = visual.class_embedding.expand(patches.shape[0], 1, -1)
            rows = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
            tokens = []
            # The last block always runs in _finish, which computes only its class token.
            for block in visual.transformer.resblocks[: min(self.first, len(visual.transformer.resblocks) - 1)]:
                rows = run_block(block, rows, rows)
                tokens.append(rows[:, 0])
        return rows, tokens

    def _finish(self, rows: torch.Tensor, tokens: list[torch.Tensor], tuned: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings [N, D] and class tokens [N, K, W] from what :meth:`_frozen_part` returned."""
        blocks, tokens = self.visual.transformer.resblocks, list(tokens)
        with self._autocast(rows):
            for number in range(len(tokens), len(blocks)):
                key = str(number)
                updates = self.updates[key] if tuned and key in self.updates else None
                last = number == len(blocks) - 1
                rows = run_block(blocks[number], rows[:, :1] if last else rows, rows, updates)
                tokens.append(rows[:, 0])
        features = self.visual.ln_post(tokens[-1].float()) @ self.visual.proj
        return normalize(features, dim=-1), torch.stack([tokens[n] for n in self.served], dim=1).float()


def _make_updates(block: Any, rank: int, generator: torch.Generator) -> nn.ModuleDict:
    query, key, value = block.attn.in_proj_weight.chunk(3)
    matrices = {
        "query": query,
        "key": key,
        "value": value,
        "out": block.attn.out_proj.weight,
        "widen": block.mlp.c_fc.weight,
        "narrow": block.mlp.c_proj.weight,
    }
    return nn.ModuleDict({name: LowRank(matrix, rank, generator) for name, matrix in matrices.items()})


def run_block(block: Any, x: torch.Tensor, context: torch.Tensor, updates: Any = None) -> torch.Tensor:
    """Return the tokens ``x`` [N, T, W] after one of open_clip's residual blocks, with low-rank updates if given.

    ``x`` attends to ``context`` [N, C, W]; ``x`` must be the first T rows of ``context``.
    """

    def apply(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, name: str) -> torch.Tensor:
        frozen = linear(rows, weight, bias)
        return frozen if updates is None else frozen + updates[name](rows)

    attention = block.attn
    rows = block.ln_1(context)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    parts = zip((rows[:, : x.shape[1]], rows, rows), weights, biases, ("query", "key", "value"), strict=True)
    heads = (attention.num_heads, attention.head_dim)
    query, key, value = (apply(*part).unflatten(2, heads).transpose(1, 2) for part in parts)
    mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    x = x + block.ls_1(apply(mixed, attention.out_proj.weight, attention.out_proj.bias, "out"))
    hidden = block.mlp.gelu(apply(block.ln_2(x), block.mlp.c_fc.weight, block.mlp.c_fc.bias, "widen"))
    return x + block.ls_2(apply(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias, "narrow"))
