"""Policies by name for a repository: the folder, read against the judgement and the text tower that are served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from veridict.forensics.byte_pairs import read_byte_pairs
from veridict.forensics.judgement import Judgement
from veridict.forensics.labels import Tokenizer
from veridict.forensics.named_policies import Policies, PolicyFilesError, load_policies
from veridict.forensics.word_pieces import WordPieces, read_pieces

from .installation import LaunchError
from .repository import MERGES, WORD_PIECES, load_judgement


def load_tokenizer(repository: Path) -> Tokenizer | None:
    """Return the tokenizer of the served text tower; None where the repository has none.

    Raises:
        ValueError: its file is damaged.
    """
    if (repository / WORD_PIECES).exists():
        return WordPieces(read_pieces(repository / WORD_PIECES))
    if (repository / MERGES).exists():
        return read_byte_pairs(repository / MERGES)
    return None


def policy_loader(
    repository: Path, profile: str = "cpu", judgement: Judgement | None = None
) -> Callable[[Path], Policies]:
    """Return the function that loads a folder of policies for a repository.

    ``judgement``: the repository's, where it is loaded already. The function raises what
    :func:`~veridict.forensics.named_policies.load_policies` raises.

    Raises:
        RepositoryError: the repository cannot be read.
    """
    base = judgement or load_judgement(repository, profile)
    tokenizer = load_tokenizer(repository)
    return lambda folder: load_policies(folder, base, tokenizer)


def check_policies(folder: Path, repository: Path, profile: str) -> None:
    """Check a folder of policies before a server starts.

    Raises:
        LaunchError: the folder, or a file of it, cannot be used.
    """
    try:
        policy_loader(repository, profile)(folder)
    except (PolicyFilesError, OSError) as error:
        raise LaunchError(f"the policies cannot be served: {error}") from error
