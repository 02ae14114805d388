"""``veridict replay``: stored answers computed again from their evidence; exit status 0 when all are sound."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from veridict.forensics.contract import Verdict
from veridict.forensics.named_policies import NamedPolicy, Policies
from veridict.forensics.replay import Difference, replay_verdict

from .manifest import default_repository
from .policies import policy_loader
from .repository import load_judgement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "answers",
        nargs="+",
        metavar="FILE",
        help="answers as JSON: one document, or one per line as `veridict detect --json` prints them; - reads stdin",
    )
    parser.add_argument(
        "--repository", type=Path, default=default_repository(), help="the model repository that judged them"
    )
    parser.add_argument(
        "--policies", type=Path, metavar="FOLDER", help="the folder of the policies that the answers name"
    )


def run(arguments: argparse.Namespace) -> int:
    """Replay everything; return 0 when all answers are sound, 1 when one is not or could not be replayed."""
    judgement = load_judgement(arguments.repository)
    policies = Policies(NamedPolicy(judgement))
    if arguments.policies is not None:
        policies = policy_loader(arguments.repository, judgement=judgement)(arguments.policies)
    sound = failed = 0
    for name in arguments.answers:
        try:
            # One byte that is no UTF-8 spoils its own line, not the whole file.
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            print(f"{name}: {error.strerror}", file=sys.stderr)
            failed += 1
            continue
        for place, text in _split(data.decode(errors="replace")):
            where = f"{name}:{place}" if place else name
            try:
                differences = _replay(_parse(text), policies)
            except (ValueError, ArithmeticError) as error:
                print(f"{where}: {error}", file=sys.stderr)
                failed += 1
                continue
            for difference in differences:
                print(f"{where}: {difference}", file=sys.stderr)
            failed += bool(differences)
            sound += not differences
    print(f"{sound} sound, {failed} not")
    # A file without an answer proves nothing.
    return 0 if sound and not failed else 1


def _replay(verdict: Verdict, policies: Policies) -> list[Difference]:
    """Return the differences by the policy that the answer names.

    Raises:
        ValueError: the policy is not there, or not of the version that judged.
    """
    named = policies.by_name.get(verdict.policy) if verdict.policy else policies.unnamed
    if named is None:
        raise ValueError(f"the answer was judged by the policy {verdict.policy!r}, which no folder of --policies has")
    by = named.judgement
    return replay_verdict(verdict, by.calibration, by.policy, by.ignored)


def _split(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, document); the number is 0 where the whole text is one document."""
    try:
        json.loads(text)
    except ValueError:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield number, line
    else:
        yield 0, text


def _parse(text: str) -> Verdict:
    """Return the answer in a document.

    Raises:
        ValueError: there is none; for the line of a refused file the message gives its error code.
    """
    document = json.loads(text)
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise ValueError(f"no answer: the file was refused with {document['error'].get('code')}")
    return Verdict.from_json(text)
