"""The served tokenizers read texts as those of the export do, and the export writes them into the repository."""

import random

import numpy as np
import pytest

from veridict.deploy.manifest import default_repository
from veridict.deploy.policies import load_tokenizer
from veridict.deploy.repository import MERGES, WORD_PIECES
from veridict.export.bundled import CLIP, TEXT_VOCABULARY
from veridict.export.convert.assemble import install_tokenizer
from veridict.export.models.text_tower import load_word_pieces
from veridict.export.torch_setup import import_open_clip
from veridict.forensics.byte_pairs import read_byte_pairs

pytestmark = pytest.mark.export

TEXT = """a photo of the cat's dog don't we've antidisestablishmentarianism 1999 U.S.A. well-known http://x.y/z?q=1
#1 $5 50% (maybe) it's I'll you're hello_world"""
WORDS = TEXT.split()
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789!\"#$%'()*+,-./:;=?@[]^_{|}~    ABC"


@pytest.fixture(scope="module")
def openai():
    return import_open_clip().get_tokenizer(CLIP)


@pytest.fixture
def repository(tmp_path):
    (tmp_path / WORD_PIECES).parent.mkdir(parents=True)
    return tmp_path


def test_byte_pairs_give_the_tokens_of_open_clip(openai, repository):
    install_tokenizer(openai, repository)
    assert not (repository / WORD_PIECES).exists()
    ours = load_tokenizer(repository)
    rng = random.Random(1)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(300)]
    texts += ["".join(rng.choices(ALPHABET, k=rng.randint(1, 120))) for _ in range(1000)]
    assert not any(ours.unknown_words(text) for text in texts)
    assert ours.context == 77
    assert np.array_equal(ours.encode(texts), openai(texts).numpy())


def test_what_byte_pairs_do_not_read_is_named(openai, repository):
    install_tokenizer(openai, repository)
    ours = load_tokenizer(repository)
    assert ours.unknown_words("A café & <end_of_text> cat\x00s") == ["café", "&", "<end_of_text>", "cat\x00s"]


def test_word_pieces_of_the_bundled_tower_are_in_the_bundled_repository(repository):
    pieces = load_word_pieces(TEXT_VOCABULARY)
    (repository / MERGES).write_text("left over")
    install_tokenizer(pieces, repository)
    assert not (repository / MERGES).exists()
    written = (repository / WORD_PIECES).read_bytes()
    assert written == (default_repository() / WORD_PIECES).read_bytes()
    served = load_tokenizer(default_repository())
    assert np.array_equal(served.encode(["a photo of a cat"]), pieces("a photo of a cat").numpy())


def test_a_tokenizer_of_another_kind_leaves_none(openai, repository):
    install_tokenizer(openai, repository)
    for other in (
        lambda texts: texts,
        type(openai)(clean="canonicalize"),
        type(openai)(additional_special_tokens=["<x>"]),
    ):
        install_tokenizer(other, repository)
        assert load_tokenizer(repository) is None


@pytest.mark.parametrize("text", ["", "a b\n", "#context: 77\na\n", "#context: 77\na b c\n", "#context: many\na b\n"])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "merges.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"merges\.txt is no list of byte pairs"):
        read_byte_pairs(path)
