"""The tokenizer of the bundled text tower: texts -> rows of its vocabulary, without torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .arrays import Int64Array
from .signature import CONTEXT

#: The first rows of every vocabulary, in this order: padding is row 0, which the tower masks.
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_LONGEST_WORD = 100


class WordPieces:
    """Cuts texts into the pieces of a vocabulary.

    Lower case, no accents, words split at spaces and punctuation, then the longest known piece first (WordPiece, as in
    BERT). A word with an unknown piece becomes one ``[UNK]``. A text has at most ``CONTEXT`` pieces, including the
    opening and closing mark; longer texts are cut.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        """Take a vocabulary in row order; pieces within a word start with ``##``.

        Raises:
            ValueError: it does not start with ``MARKS``, or names a piece twice.
        """
        self.context = CONTEXT
        self.pieces = tuple(pieces)
        self._rows = {piece: row for row, piece in enumerate(self.pieces)}
        if self.pieces[: len(MARKS)] != MARKS or len(self._rows) != len(self.pieces):
            raise ValueError(f"a vocabulary starts with {', '.join(MARKS)} and names every piece once")

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.pieces)

    def encode(self, texts: Sequence[str]) -> Int64Array:
        """Return the rows of the texts' pieces, int64 [N, CONTEXT], padded with zeros."""
        tokens = np.zeros((len(texts), CONTEXT), np.int64)
        opening, closing = self._rows["[CLS]"], self._rows["[SEP]"]
        for row, text in enumerate(texts):
            rows = [self._rows[piece] for word in split_words(text) for piece in self.cut(word)]
            rows = [opening, *rows[: CONTEXT - 2], closing]
            tokens[row, : len(rows)] = rows
        return tokens

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that the vocabulary cannot spell."""
        return [word for word in split_words(text) if self.cut(word) == [MARKS[1]]]

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


def read_pieces(path: Path) -> list[str]:
    """Return the pieces of a vocabulary file: UTF-8, one piece a line."""
    return path.read_text(encoding="utf-8").splitlines()
