"""ThreatExchange JSON: the form in which platforms exchange hashes, for the indicator type ``HASH_PDQ``.

Read is what the endpoints ``threat_descriptors`` and ``threat_updates`` of ThreatExchange answer: an object with a list
``data`` (or the list alone) of objects with ``type`` and ``indicator``
(https://developers.facebook.com/docs/threat-exchange/reference/apis/threat-descriptor). Written are the fields of a
descriptor that a publisher sets. Nothing here talks to a network.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bank_files import Entry

INDICATOR_TYPE = "HASH_PDQ"
#: Disposition of a bank -> status of its descriptors; others are UNKNOWN.
_STATUS = {"deepfake": "MALICIOUS", "real": "NON_MALICIOUS"}


@dataclass(frozen=True)
class Skipped:
    """A descriptor that is no entry of a bank, and why."""

    reason: str


def read_descriptors(text: str) -> Iterator[tuple[str, Mapping[str, Any] | str | Skipped]]:
    """Yield the place of each descriptor, and the fields of its entry, what is wrong with it, or why it is skipped.

    The label is the tags, else the description. Skipped are descriptors of another type, and withdrawn ones.

    Raises:
        ValueError: the text is no JSON, or not of this form.
    """
    document = json.loads(text)
    items = document.get("data") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise ValueError("not ThreatExchange JSON: there is no list 'data'")
    for number, item in enumerate(items):
        place = f"data[{number}]"
        if not isinstance(item, dict):
            yield place, "not a JSON object"
            continue
        kind = item.get("type")
        indicator = item.get("indicator", item.get("raw_indicator"))
        if isinstance(indicator, dict):  # threat_descriptors answers the indicator as an object
            kind, indicator = indicator.get("type", kind), indicator.get("indicator")
        if not isinstance(kind, str):
            yield place, "it has no type"
        elif kind != INDICATOR_TYPE:
            yield place, Skipped(f"of type {kind:.40}")
        elif item.get("should_delete") or item.get("is_expired"):
            yield place, Skipped("withdrawn")
        else:
            yield place, {"hash": indicator, "id": str(item.get("id", "")), "label": _read_label(item)}


def _read_label(item: Mapping[str, Any]) -> Any:
    """Return the tags or the description; None, which is no label, where they have another form."""
    tags = item.get("tags") or []
    tags = tags.get("data", []) if isinstance(tags, dict) else tags
    if not isinstance(tags, list):
        return None
    texts = [tag.get("text") if isinstance(tag, dict) else tag for tag in tags]
    named = [text for text in texts if isinstance(text, str)]
    return (", ".join(named) or item.get("description", "")) if len(named) == len(texts) else None


def write_descriptors(entries: Iterable[Entry], disposition: str) -> str:
    """Return the ThreatExchange JSON of the entries of a bank, one descriptor per line.

    ``disposition`` becomes the status: deepfake is MALICIOUS, real is NON_MALICIOUS, another is UNKNOWN.
    """
    lines = []
    for entry in entries:
        descriptor: dict[str, Any] = {"id": entry.id} if entry.id else {}
        descriptor |= {
            "type": INDICATOR_TYPE,
            "indicator": entry.hash,
            "status": _STATUS.get(disposition, "UNKNOWN"),
            "description": f"known content: {disposition}",
        }
        if entry.label:
            descriptor["tags"] = [entry.label]
        lines.append(json.dumps(descriptor, ensure_ascii=False))
    return '{"data": [\n' + ",\n".join(lines) + "\n]}\n"
