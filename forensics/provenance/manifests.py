"""What a C2PA manifest store says: how the picture was made, with what, and who signed it.

The store is the document that c2pa-python returns. A picture's own manifest comes first; what it was made from
(ingredients) has manifests of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..contract import Declared
from .generators import SOURCE_TYPES, clip, read_source_types

#: Manifests that are followed. Files that were edited in several programs have some.
_MOST_MANIFESTS = 16
_ACTIONS = ("c2pa.actions", "c2pa.actions.v2")
_METADATA = ("stds.iptc", "c2pa.metadata", "cawg.metadata")
_CREATED = "c2pa.created"
#: The strongest declaration counts.
STRENGTH: dict[Declared, int] = {"ai": 4, "ai_edited": 3, "composite": 2, "capture": 1, "": 0}


@dataclass(frozen=True)
class Statement:
    """What credentials state.

    ``sure``: no check failed in the manifest that declares it, nor in those between it and the picture.
    """

    declares: Declared = ""
    source_type: str = ""
    generator: str = ""
    signer: str = ""
    sure: bool = False


NO_STATEMENT = Statement()


@dataclass(frozen=True)
class _Visit:
    """A manifest to look at: its label, whether it is the picture itself or a part, and whether it is sure."""

    label: str
    whole: bool
    sure: bool


def read_statement(store: dict[str, Any], doubted: Collection[str]) -> Statement:
    """Return the strongest statement of the picture's manifest and of the manifests that it is made from.

    ``doubted``: the labels of manifests of which a check failed.

    Raises:
        KeyError, TypeError, AttributeError: the store is malformed.
    """
    active = str(store.get("active_manifest") or "")
    manifests = store.get("manifests") or {}
    found = sorted(_statements(manifests, active, doubted), key=lambda statement: -STRENGTH[statement.declares])
    own = manifests.get(active) or {}
    signer = clip(str((own.get("signature_info") or {}).get("issuer") or ""))
    if not found:
        return Statement(generator=_program(own), signer=signer)
    best = found[0]
    return replace(best, generator=best.generator or _program(own), signer=signer)


def _statements(manifests: dict[str, Any], label: str, doubted: Collection[str]) -> Iterator[Statement]:
    """Yield the statements of a manifest and, as far as they hold for the picture, of its ingredients."""
    waiting = [_Visit(label, whole=True, sure=True)]
    seen: set[str] = set()
    while waiting and len(seen) < _MOST_MANIFESTS:
        visit = waiting.pop(0)
        manifest = manifests.get(visit.label)
        if manifest is None or visit.label in seen:
            continue
        seen.add(visit.label)
        visit = replace(visit, sure=visit.sure and visit.label not in doubted)
        for statement in _own_statements(manifest):
            # A picture of which one part was made by AI was not made by AI as a whole.
            part = statement.declares == "ai" and not visit.whole
            yield replace(statement, declares="ai_edited" if part else statement.declares, sure=visit.sure)
        waiting += _ingredients(manifest, visit)


def _own_statements(manifest: dict[str, Any]) -> Iterator[Statement]:
    program = _program(manifest)
    for assertion in manifest.get("assertions") or ():
        data = assertion.get("data")
        if assertion.get("label") in _METADATA:
            for name in read_source_types(str(data)[:20_000]):
                yield Statement(SOURCE_TYPES.get(name, ""), name, program)
        if assertion.get("label") in _ACTIONS:
            for action in data.get("actions") or ():
                for name in read_source_types(str(action.get("digitalSourceType") or "")):
                    declares = SOURCE_TYPES.get(name, "")
                    if declares == "ai" and action.get("action") != _CREATED:
                        declares = "ai_edited"  # a later step that used AI
                    yield Statement(declares, name, _agent(action) or program)


def _ingredients(manifest: dict[str, Any], visit: _Visit) -> Iterator[_Visit]:
    """Yield the manifests of a picture's ingredients: of its earlier states and of its parts."""
    ingredients = manifest.get("ingredients") or ()
    for ingredient in ingredients:
        relation, label = ingredient.get("relationship"), ingredient.get("active_manifest")
        if relation not in ("parentOf", "componentOf") or not label:
            continue
        # Some services wrap their picture: a second manifest with the first as its only component.
        same = relation == "parentOf" or len(ingredients) == 1
        # What failed already when the ingredient was added is recorded there, and not reported again.
        results = ingredient.get("validation_results") or {}
        failed = (results.get("activeManifest") or {}).get("failure") or ingredient.get("validation_status")
        yield _Visit(str(label), visit.whole and same, visit.sure and not failed)


def _program(manifest: dict[str, Any]) -> str:
    for info in manifest.get("claim_generator_info") or ():
        if name := clip(str(info.get("name") or "")):
            return name
    return clip(str(manifest.get("claim_generator") or ""))


def _agent(action: dict[str, Any]) -> str:
    agent = action.get("softwareAgent")
    return clip(str(agent.get("name") or "") if isinstance(agent, dict) else str(agent or ""))


def failed_checks(store: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the failed checks of the picture's manifest and its ingredients: code, and the label of the manifest."""
    failed = (status for part in _results(store) for status in part.get("failure") or ())
    return [(str(status.get("code")), _label(str(status.get("url")))) for status in failed]


def _label(address: str) -> str:
    """Return the manifest in an address: "self#jumbf=/c2pa/LABEL/c2pa.signature" or the label itself."""
    return address.partition("/c2pa/")[2].partition("/")[0] or address


def succeeded_codes(store: dict[str, Any]) -> set[str]:
    """Return the codes of the checks that the picture's own manifest passed."""
    own = (store.get("validation_results") or {}).get("activeManifest") or {}
    return {str(status.get("code")) for status in own.get("success") or ()}


def _results(store: dict[str, Any]) -> Iterator[dict[str, Any]]:
    results = store.get("validation_results") or {}
    yield results.get("activeManifest") or {}
    for delta in results.get("ingredientDeltas") or ():
        yield delta.get("validationDeltas") or {}
