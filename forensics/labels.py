"""Custom zero-shot labels: texts of an operator that CLIP compares an image with.

A label is the mean of its prompts' embeddings, as a class of the prompt bank is. Its score is the softmax share of the
label against what it is compared with: texts that the policy names, or the categories of the prompt bank. So each
label is scored by itself, and no label changes another one's score. The shares of CLIP's softmax are too confident;
thresholds are to be chosen on pictures of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .arrays import Float32Array, Float64Array, Int64Array
from .policy_answers import LabelScore

#: The most labels of a policy, texts of a label, and characters of a text.
_LABELS, _TEXTS, _LONGEST = 100, 32, 200
_NAME = re.compile(r"[a-z0-9][a-z0-9 _-]{0,63}")
#: Texts -> their embeddings [N, D] float32.
Embed = Callable[[Sequence[str]], Float32Array]


class Tokenizer(Protocol):
    """The tokenizer of a text tower; ``context``: tokens of a text, with the opening and closing mark."""

    context: int

    def encode(self, texts: Sequence[str]) -> Int64Array:
        """Return the tokens, int64 [N, context], padded with zeros; longer texts are cut."""

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that it cannot read."""


@dataclass(frozen=True)
class LabelRule:
    """One label: its prompts, what they are compared with (() = the categories), and from which share it is reached."""

    name: str
    prompts: tuple[str, ...]
    against: tuple[str, ...] = ()
    threshold: float | None = None


def read_rules(document: Any, tokenizer: Tokenizer | None) -> tuple[LabelRule, ...]:
    """Return the labels of a policy file.

    Each name has a list of prompts, or an object with ``prompts``, and ``against`` and ``threshold`` where wanted.
    ``tokenizer``: that of the served text tower, None where it is not known.

    Raises:
        ValueError: an entry is unknown or malformed, or the text tower cannot read a text; the message names it.
    """
    if not isinstance(document, dict) or len(document) > _LABELS:
        raise ValueError(f"labels: must be an object of at most {_LABELS} labels")
    if document and tokenizer is None:
        raise ValueError("labels: the repository has no tokenizer for its text tower: export it anew")
    return tuple(_read_rule(name, entry, tokenizer) for name, entry in document.items() if tokenizer is not None)


def _read_rule(name: str, entry: Any, tokenizer: Tokenizer) -> LabelRule:
    place = f"labels.{name}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"{place}: a name has up to 64 lower-case letters, digits, spaces, - and _")
    entry = {"prompts": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict) or "prompts" not in entry:
        raise ValueError(f"{place}: must be a list of prompts, or an object with prompts")
    if unknown := sorted(set(entry) - {"prompts", "against", "threshold"}):
        raise ValueError(f"{place}.{unknown[0]}: unknown entry; there are prompts, against, threshold")
    threshold = entry.get("threshold")
    if threshold is not None and (type(threshold) not in (int, float) or not 0.0 < threshold < 1.0):
        raise ValueError(f"{place}.threshold: must be a number inside (0, 1), not {threshold!r}")
    against = _read_texts(f"{place}.against", entry["against"], tokenizer) if "against" in entry else ()
    prompts = _read_texts(f"{place}.prompts", entry["prompts"], tokenizer)
    return LabelRule(name, prompts, against, None if threshold is None else float(threshold))


def _read_texts(place: str, texts: Any, tokenizer: Tokenizer) -> tuple[str, ...]:
    if not isinstance(texts, list) or not 1 <= len(texts) <= _TEXTS:
        raise ValueError(f"{place}: must be a list of 1 to {_TEXTS} texts")
    for text in texts:
        if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
            raise ValueError(f"{place}: a text has 1 to {_LONGEST} characters; {str(text)[:40]!r} does not fit")
        if unknown := tokenizer.unknown_words(text):
            raise ValueError(f"{place}: the text tower cannot read the word {unknown[0]!r}")
        if tokenizer.encode([text])[0, -1]:
            raise ValueError(f"{place}: {text[:40]!r} is too long: it has more than {tokenizer.context - 3} tokens")
    return tuple(texts)


@dataclass(frozen=True, eq=False)
class EmbeddedLabel:
    """A label, its unit-length embedding ``row`` [D], and those of its ``against`` [K, D]; None where it has none."""

    rule: LabelRule
    row: Float32Array
    against: Float32Array | None


def embed_rules(rules: Sequence[LabelRule], embed: Embed) -> tuple[EmbeddedLabel, ...]:
    """Return the labels with their embeddings; ``embed`` is called once, with each text once."""
    texts = list(dict.fromkeys(text for rule in rules for text in (*rule.prompts, *rule.against)))
    rows: Mapping[str, Float32Array] = dict(zip(texts, _unit(embed(texts)), strict=True)) if texts else {}
    return tuple(
        EmbeddedLabel(
            rule,
            _unit(np.mean([rows[text] for text in rule.prompts], axis=0, dtype=np.float32)),
            np.stack([rows[text] for text in rule.against]) if rule.against else None,
        )
        for rule in rules
    )


def _unit(rows: Float32Array) -> Float32Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def score_labels(
    labels: Sequence[EmbeddedLabel], embedding: Float32Array, categories: Float64Array, scale: float
) -> dict[str, LabelScore]:
    """Return the score of each label by name.

    ``embedding`` [D]: CLIP's of the image. ``categories``: the image's logits for the prompt bank's categories.
    ``scale`` turns cosines into logits.
    """
    scores = {}
    for label in labels:
        seen = embedding.astype(np.float64)
        others = categories if label.against is None else scale * (label.against.astype(np.float64) @ seen)
        logit = scale * float(label.row.astype(np.float64) @ seen)
        share = 1.0 / (1.0 + float(np.exp(others - logit).sum()))
        threshold = label.rule.threshold
        scores[label.rule.name] = LabelScore(share, threshold, threshold is not None and share >= threshold)
    return scores
