"""Policies by name in the model ``fusion``: which one judges a request, its labels and shadows, and their metrics.

A request names its policy in the request parameter ``policy``, which Triton hands on to every step of an ensemble.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridict.forensics import signature as sig
from veridict.forensics.arrays import Float32Array
from veridict.forensics.contract import Verdict
from veridict.forensics.judgement import Judgement
from veridict.forensics.labels import EmbeddedLabel, Tokenizer, embed_rules, score_labels
from veridict.forensics.named_policies import LookUp, NamedPolicy, Policies, judge
from veridict.forensics.observation import Observation
from veridict.forensics.policy_reload import PolicyWatcher

from ..installation import POLICIES
from ..policies import load_tokenizer, policy_loader
from .metrics_buffer import SOUND_OR_REFUSED, MetricsBuffer
from .networks import run_network

#: The request parameter.
PARAMETER = "policy"
#: The labels of verdicts that no named policy gave, and of no shadow: no name has parentheses.
UNNAMED, NO_SHADOW = "(repository)", "(none)"


class UnknownPolicy(ValueError):
    """A request names a policy that is not in force, or names it by something that is no string."""


class LabelsUnavailable(RuntimeError):
    """The served text tower did not embed the labels of a policy."""


class LabelEmbeddings:
    """The embeddings of labels, from the served ``clip_text``: computed at the first use, kept while in force.

    Not before the first request: Triton ends without a message when a model that still loads calls another one.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        """Take the tokenizer of the text tower."""
        self._tokenizer = tokenizer
        self._rows: dict[str, Float32Array] = {}
        self._embedded: dict[str, tuple[EmbeddedLabel, ...]] = {}
        self._policies: Policies | None = None

    def find(self, named: NamedPolicy, policies: Policies) -> tuple[EmbeddedLabel, ...]:
        """Return the embedded labels of one of the policies in force.

        Raises:
            LabelsUnavailable: ``clip_text`` did not answer.
        """
        if policies is not self._policies:
            rules = [rule for policy in policies.by_name.values() for rule in policy.labels]
            texts = {text for rule in rules for text in (*rule.prompts, *rule.against)}
            self._rows = {text: row for text, row in self._rows.items() if text in texts}
            self._embedded, self._policies = {}, policies
        version = named.judgement.models.policy
        if version not in self._embedded:
            try:
                self._embedded[version] = embed_rules(named.labels, self._embed)
            except RuntimeError as error:
                raise LabelsUnavailable(f"clip_text: {error}") from error
        return self._embedded[version]

    def _embed(self, texts: Sequence[str]) -> Float32Array:
        assert self._tokenizer is not None  # labels are refused at start without it
        if new := [text for text in texts if text not in self._rows]:
            (rows,) = run_network(sig.CLIP_TEXT, self._tokenizer.encode(new).astype(np.int32))
            self._rows |= dict(zip(new, rows, strict=True))
        return np.stack([self._rows[text] for text in texts])


class PolicyChoice:
    """Finds the policy of each request, judges by it, and counts."""

    def __init__(self, pb_utils: Any, judgement: Judgement, repository: Path) -> None:
        """Load the policies of the folder that the environment names, and create every metric.

        Raises:
            PolicyFilesError: a file cannot be used.
            OSError: the folder cannot be read.
        """
        self._none = Policies(NamedPolicy(judgement))
        self._log = pb_utils.Logger
        self._watcher: PolicyWatcher | None = None
        self._buffer = MetricsBuffer(pb_utils)
        self._verdicts = self._buffer.counters("policy_verdicts_total", "Images judged, by the policy that judged them")
        self._shadows = self._buffer.counters(
            "shadow_verdicts_total", "Images that a shadow judged too, by whether the verdicts agree"
        )
        self._buffer.counters(
            "policy_unknown_total", "Requests refused, since they name no policy in force", {"unknown": {}}
        )
        self._buffer.counters(
            "policy_label_failures_total", "Requests that failed, since clip_text embedded no labels", {"failed": {}}
        )
        self._buffer.counters(
            "policy_reloads_total", "New states of the folder of policies, by result", SOUND_OR_REFUSED
        )
        self._buffer.gauge("policies", "Policies in force that requests can name", lambda: len(self._current.by_name))
        self._buffer.gauge(
            "policies_refused",
            "1 while the present state of the folder is not in force",
            lambda: bool(self._watcher and self._watcher.refused),
        )
        tokenizer = None
        if folder := os.environ.get(POLICIES, ""):
            load = policy_loader(repository, judgement=judgement)
            tokenizer = load_tokenizer(repository)
            self._watcher = PolicyWatcher(Path(folder), self._counted(load), self._report)
        else:
            self._add_series(self._none)
        self._labels = LabelEmbeddings(tokenizer)

    @property
    def _current(self) -> Policies:
        return self._watcher.policies if self._watcher is not None else self._none

    def _counted(self, load: Callable[[Path], Policies]) -> Callable[[Path], Policies]:
        def load_with_series(folder: Path) -> Policies:
            policies = load(folder)
            self._add_series(policies)
            return policies

        return load_with_series

    def _add_series(self, policies: Policies) -> None:
        """Create the series of every policy, so that each exists before its first image; they outlive their policy."""
        for named in (policies.unnamed, *policies.by_name.values()):
            name = named.judgement.name or UNNAMED
            for verdict in ("real", "deepfake"):
                labels = {"policy": name, "verdict": verdict}
                self._buffer.include(("verdict", name, verdict), self._verdicts, labels)
            # The repository's policy has no shadows; its series make the metric exist on every server.
            for shadow in named.shadows or ((NO_SHADOW,) if name == UNNAMED else ()):
                for agrees in (True, False):
                    labels = {"policy": name, "shadow": shadow, "agrees": str(agrees).lower()}
                    self._buffer.include(("shadow", name, shadow, agrees), self._shadows, labels)

    def _report(self, message: str, sound: bool) -> None:
        self._buffer.count(sound)
        (self._log.log_info if sound else self._log.log_warn)(f"policies: {message}")

    def choose(self, parameters: str) -> tuple[NamedPolicy, Policies]:
        """Return the policy that a request's parameters (a JSON object) name, and the policies that are in force.

        Raises:
            UnknownPolicy: it is not in force.
        """
        name = json.loads(parameters or "{}").get(PARAMETER)
        policies = self._current
        if name is not None and not isinstance(name, str):
            self._buffer.count("unknown")
            raise UnknownPolicy("the request parameter 'policy' must be a string")
        named = policies.find(name)
        if named is None:
            self._buffer.count("unknown")
            raise UnknownPolicy(f"there is no policy {str(name)[:64]!r}")
        return named, policies

    def judge(
        self, observation: Observation, chosen: tuple[NamedPolicy, Policies], request_id: str, look_up: LookUp
    ) -> Verdict:
        """Return the verdict on one image.

        Raises:
            LabelsUnavailable: ``clip_text`` did not embed the labels.
            ValueError: as :func:`~veridict.forensics.fusion.fuse`.
        """
        named, policies = chosen
        if not named.labels:
            return judge(observation, named, policies, request_id, look_up)
        try:
            labels = self._labels.find(named, policies)
        except LabelsUnavailable:
            self._buffer.count("failed")
            raise
        if observation.embedding is None:
            raise ValueError("the observation has no embedding")
        bank = named.judgement.bank
        categories = bank.similarities(observation.embedding)[2:]
        scores = score_labels(labels, observation.embedding, categories, bank.scale)
        return judge(observation, named, policies, request_id, look_up, scores)

    def count(self, verdict: Verdict) -> None:
        """Count one judged image."""
        name = verdict.policy or UNNAMED
        agreements = [("shadow", name, shadow.name, shadow.verdict == verdict.verdict) for shadow in verdict.shadow]
        self._buffer.count(("verdict", name, verdict.verdict), *agreements)

    def close(self) -> None:
        """End the threads and publish the last counts."""
        if self._watcher is not None:
            self._watcher.close()
        self._buffer.close()
