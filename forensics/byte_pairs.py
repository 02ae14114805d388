"""The tokenizer of OpenAI's text tower: byte pair encoding (Sennrich et al. 2016), for plain English, without torch.

It reads ASCII letters, digits and common punctuation. On such texts its tokens are those of open_clip's tokenizer,
whose further steps change other characters only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .arrays import Int64Array

#: Symbols before the merges: a symbol per byte, and one per byte at the end of a word.
_BYTES = 256
#: The first byte that has a symbol of its own is "!", the next ones follow.
_FIRST = ord("!")
#: Marks the last symbol of a word.
_END = "</w>"
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
_READABLE = re.compile(r"[a-z0-9!\"#$%'()*+,\-./:;=?@\[\]^_{|}~]+")


class BytePairs:
    """Cuts texts into symbols, and joins them by a list of merges, the most frequent pair first.

    ``context``: the tokens of a text, including the opening and closing mark. Longer texts are cut.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], context: int) -> None:
        """Take the pairs in the order of their tokens."""
        self.context = context
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._rows = {first + second: 2 * _BYTES + rank for (first, second), rank in self._ranks.items()}
        self._opening = 2 * _BYTES + len(merges)

    def encode(self, texts: Sequence[str]) -> Int64Array:
        """Return the tokens of texts that it can read, int64 [N, context], padded with zeros."""
        tokens = np.zeros((len(texts), self.context), np.int64)
        for row, text in enumerate(texts):
            found = [token for word in _WORDS.findall(text.lower()) for token in self._tokens(word)]
            found = [self._opening, *found[: self.context - 2], self._opening + 1]
            tokens[row, : len(found)] = found
        return tokens

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that have other characters than it can read."""
        return [word for word in text.lower().split() if not _READABLE.fullmatch(word)]

    def _tokens(self, word: str) -> list[int]:
        symbols = [*word[:-1], word[-1] + _END]
        while True:
            ranked = {pair: self._ranks[pair] for pair in itertools.pairwise(symbols) if pair in self._ranks}
            if not ranked:
                return [self._token(symbol) for symbol in symbols]
            symbols = _join(symbols, min(ranked, key=ranked.__getitem__))

    def _token(self, symbol: str) -> int:
        character = symbol.removesuffix(_END)
        if len(character) == 1:
            return ord(character) - _FIRST + (_BYTES if symbol.endswith(_END) else 0)
        return self._rows[symbol]


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Return the symbols with every occurrence of a pair joined, from the left."""
    joined: list[str] = []
    at = 0
    while at < len(symbols):
        size = 2 if tuple(symbols[at : at + 2]) == pair else 1
        joined.append("".join(symbols[at : at + size]))
        at += size
    return joined


def read_byte_pairs(path: Path) -> BytePairs:
    """Return the tokenizer of a file that :func:`write_byte_pairs` wrote.

    Raises:
        ValueError: the file is malformed.
    """
    head, *lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    pairs = [line.split(" ") for line in lines]
    if not re.fullmatch(r"#context: [0-9]{1,4}", head) or not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError(f"{path} is no list of byte pairs")
    return BytePairs([(first, second) for first, second in pairs], int(head.removeprefix("#context: ")))


def write_byte_pairs(path: Path, merges: Sequence[tuple[str, str]], context: int) -> None:
    """Write a tokenizer: the context, then one pair a line, separated by a space."""
    lines = [f"#context: {context}", *(" ".join(pair) for pair in merges)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
