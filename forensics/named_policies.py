"""Policies by name: a folder of JSON files, each of which states what differs from the repository's policy.

A request names the policy that judges it. Requests without a name are judged by the repository's ``policy.json``, or
by the policy ``default`` where the folder has one. A policy may also have another calibration, which lies in a
sub-folder beside it, and shadows: further policies that judge the same observation and never decide.

The folder is in force as a whole: one bad file, and nothing of it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .calibration import HEAD_FILE, load_calibration
from .contract import KnownContent, Verdict
from .fusion import fuse
from .judgement import Judgement
from .labels import LabelRule, Tokenizer, read_rules
from .observation import Observation
from .policy import FILE, KnownContentPolicy, Policy, check_policy, load_policy, parse_policy, to_document
from .policy_answers import LabelScore, Shadow
from .signals import TERMS

SCHEMA = "veridict-named-policy/1"
#: The policy of requests that name none, where the folder has it.
DEFAULT = "default"
#: The most policies of a folder, and shadows of a policy: every one is a series of metrics, every shadow computation.
_MOST, _SHADOWS = 200, 8
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_CALIBRATION_FILES = ("calibration.json", HEAD_FILE, FILE)
#: Entries with keys of the operator's own: they are replaced as a whole.
_WHOLE = ("known_content.decides",)
_OWN = ("schema", "calibration", "signals", "labels", "shadows")
#: Looks an image up in the banks of known pictures by a policy's rules.
LookUp = Callable[[Observation, KnownContentPolicy], KnownContent | None]


class PolicyFilesError(ValueError):
    """A folder of policies cannot be used; ``problems`` has a sentence per file: the file, the entry and the cause."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Take the problems, at least one."""
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that a request can name; ``judgement.name`` is its name, "" that of the repository's policy."""

    judgement: Judgement
    labels: tuple[LabelRule, ...] = ()
    shadows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policies:
    """What requests can name, and what judges a request that names nothing."""

    unnamed: NamedPolicy
    by_name: Mapping[str, NamedPolicy] = field(default_factory=dict)

    def find(self, name: str | None) -> NamedPolicy | None:
        """Return the policy of a request; None for a name that is unknown. ``name`` None: the request names none."""
        return self.by_name.get(DEFAULT, self.unnamed) if name is None else self.by_name.get(name)


def find_policy_files(folder: Path) -> list[Path]:
    """Return the files that policies are read from: those of the policies, and those of calibrations beside them.

    Raises:
        OSError: the folder cannot be read.
    """
    files = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):  # such as the links of a volume of Kubernetes
            continue
        if path.is_dir():
            files += [path / name for name in _CALIBRATION_FILES if (path / name).exists()]
        elif path.suffix == ".json":
            files.append(path)
    return files


def load_policies(folder: Path, base: Judgement, tokenizer: Tokenizer | None = None) -> Policies:
    """Read and check all policies of a folder.

    ``base``: the repository's. ``tokenizer``: that of its text tower, None where it is unknown.

    Raises:
        PolicyFilesError: a file cannot be read or used.
        OSError: the folder cannot be read.
    """
    problems, found = [], {}
    files = [path for path in find_policy_files(folder) if path.parent == folder]
    if len(files) > _MOST:
        raise PolicyFilesError([f"{folder}: {len(files)} policies; at most {_MOST} can be in force"])
    for path in files:
        try:
            found[path.stem] = read_policy(path, base, tokenizer)
        except (OSError, ValueError, ArithmeticError, RecursionError) as error:
            text = str(error.strerror) if isinstance(error, OSError) else str(error)
            problems.append(text if text.startswith(str(path)) else f"{path}: {text}")
    for name, named in found.items():
        problems += [
            f"{folder / name}.json: shadows: there is no policy {shadow!r} in the folder"
            for shadow in named.shadows
            if shadow not in {path.stem for path in files}
        ]
    if problems:
        raise PolicyFilesError(problems)
    return Policies(NamedPolicy(base), found)


def read_policy(path: Path, base: Judgement, tokenizer: Tokenizer | None = None) -> NamedPolicy:
    """Read one policy file; the file's name without the ending is the policy's.

    Raises:
        OSError: a file cannot be read.
        ValueError: an entry is unknown or malformed, or the policy does not fit the calibration.
    """
    if not _NAME.fullmatch(path.stem):
        raise ValueError(f"{path}: a policy's name has up to 64 lower-case letters, digits, - and _")
    data = path.read_bytes()
    document = json.loads(data, object_pairs_hook=_refuse_twice)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError(f"schema: must be {SCHEMA!r}")
    calibration, policy = base.calibration, base.policy
    if "calibration" in document:
        calibration, policy = _read_calibration(path, document["calibration"], base)
    changes = {name: value for name, value in document.items() if name not in _OWN}
    document_of_base = to_document(policy)
    # Whether an image is scored again is settled before fusion, where the name of the policy arrives.
    del document_of_base["stability"]
    merged = {**merge(document_of_base, changes), "stability": vars(policy.stability)}
    version = hashlib.sha256(policy.version.encode() + data).hexdigest()[:12]
    policy = parse_policy(merged, version)
    check_policy(policy, calibration, str(path))
    models = replace(base.models, policy=version, calibration=calibration.version)
    judgement = Judgement(base.bank, calibration, policy, models, path.stem, _read_ignored(document.get("signals", {})))
    return NamedPolicy(judgement, read_rules(document.get("labels", {}), tokenizer), _read_shadows(document, path.stem))


def merge(document: Mapping[str, Any], changes: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return the document with the changed values in their places.

    Raises:
        ValueError: an entry is not in the document, or its value is of another type; the message names it.
    """
    merged = dict(document)
    for name, value in changes.items():
        place = f"{at}{name}"
        if name not in document or place == "schema":
            raise ValueError(
                f"{place}: unknown entry; there are {', '.join([*_OWN, *document] if not at else document)}"
            )
        present = document[name]
        if isinstance(present, dict) and isinstance(value, dict) and place not in _WHOLE:
            merged[name] = merge(present, value, f"{place}.")
            continue
        if kind := _mismatch(present, value):
            raise ValueError(f"{place}: must be {kind}, not {json.dumps(value)[:60]}")
        merged[name] = value
    return merged


def _mismatch(present: Any, value: Any) -> str:
    """Return what a value must be in place of the present one, "" where it is that."""
    if isinstance(present, list):
        fits = isinstance(value, list) and len(value) == len(present) and all(map(_is_number, value))
        return "" if fits else f"{len(present)} numbers"
    if isinstance(present, dict):
        return "" if isinstance(value, dict) and all(isinstance(part, str) for part in value.values()) else "an object"
    if isinstance(present, str):
        return "" if isinstance(value, str) else "a string"
    return "" if _is_number(value) else "a number"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object of JSON, in which json.loads would let the last of two equal entries win."""
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice}: the entry is there twice")
    return dict(pairs)


def _read_ignored(signals: Any) -> frozenset[str]:
    if not isinstance(signals, dict):
        raise ValueError("signals: must be an object: a signal's name -> whether it counts")
    for name, counts in signals.items():
        if name not in TERMS:
            raise ValueError(f"signals.{name}: unknown signal; there are {', '.join(TERMS)}")
        if not isinstance(counts, bool):
            raise ValueError(f"signals.{name}: must be true or false, not {json.dumps(counts)[:60]}")
    ignored = frozenset(name for name, counts in signals.items() if not counts)
    if ignored == frozenset(TERMS):
        raise ValueError("signals: at least one signal must count")
    return ignored


def _read_shadows(document: Mapping[str, Any], own: str) -> tuple[str, ...]:
    shadows = document.get("shadows", [])
    if not isinstance(shadows, list) or not all(isinstance(name, str) for name in shadows):
        raise ValueError("shadows: must be a list of names of policies")
    if len(set(shadows)) != len(shadows) or len(shadows) > _SHADOWS or own in shadows:
        raise ValueError(f"shadows: must be at most {_SHADOWS} other policies, each once")
    return tuple(shadows)


def _read_calibration(path: Path, name: Any, base: Judgement) -> tuple[Any, Policy]:
    """Return the calibration of a sub-folder, and the policy in it; without one the repository's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("calibration: must be the name of a folder beside the file")
    folder = path.parent / name
    if not (folder / "calibration.json").exists():
        raise ValueError(f"calibration: there is no {folder / 'calibration.json'}")
    calibration = load_calibration(folder / "calibration.json")
    if calibration.family != base.calibration.family:
        raise ValueError(f"calibration: {folder} was fitted on {calibration.family}, not on {base.calibration.family}")
    ours, theirs = calibration.head, base.calibration.head
    if ours is not None and theirs is not None and ours.mean.shape != theirs.mean.shape:
        raise ValueError(f"calibration: the head in {folder} takes class tokens {ours.mean.shape}")
    own = folder / FILE
    return calibration, load_policy(own, calibration) if own.exists() else base.policy


def judge(
    observation: Observation,
    chosen: NamedPolicy,
    policies: Policies,
    request_id: str,
    look_up: LookUp,
    labels: Mapping[str, LabelScore] | None = None,
) -> Verdict:
    """Return the verdict by the chosen policy, with the given labels and with what its shadows say.

    Raises:
        ValueError: as :func:`.fusion.fuse`.
    """

    def verdict(judgement: Judgement) -> Verdict:
        return fuse(observation, judgement, request_id, look_up(observation, judgement.policy.known_content))

    decided = verdict(chosen.judgement)
    if not labels and not chosen.shadows:
        return decided
    shadows = [_shadow(verdict(policies.by_name[name].judgement)) for name in chosen.shadows]
    return replace(decided, labels=dict(labels or {}), shadow=tuple(shadows))


def _shadow(verdict: Verdict) -> Shadow:
    models = verdict.models
    return Shadow(
        verdict.policy,
        models.policy,
        models.calibration,
        verdict.verdict,
        verdict.fake_probability,
        verdict.threshold,
        verdict.confidence,
    )
