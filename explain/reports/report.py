"""The HTML report of several verdicts: each image with its verdict, evidence and ELA map.

The report is one file without scripts, and it fetches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridict.forensics.contract import Verdict
from veridict.forensics.decode import decode_image

from .colours import css_stops
from .html import data_uri, evidence_bars, render_template
from .maps import FULL_SCALE, error_level_image, mark_faces

_LONGEST = 480
TEMPLATE = Path(__file__).parent / "report.html"


@dataclass(frozen=True)
class Entry:
    """One image: its name, its encoded bytes, and the verdict, or None and the error's text."""

    name: str
    data: bytes
    verdict: Verdict | None
    error: str = ""


def _view(entry: Entry) -> dict[str, Any]:
    if entry.verdict is None:
        return {"name": entry.name, "error": entry.error}
    verdict = entry.verdict
    image = decode_image(entry.data)
    labels = [f"{face.fake_probability:.2f}" for face in verdict.faces]
    ela = error_level_image(image)
    return {
        "name": entry.name,
        "verdict": verdict,
        "text": verdict.to_text(),
        "image": data_uri(mark_faces(image.pixels, [f.box for f in verdict.faces], labels), _LONGEST),
        "ela": None if ela is None else data_uri(ela, _LONGEST),
        "ela_why_not": verdict.forensics["ela"].why_not,
        "bars": evidence_bars(verdict),
        "categories": sorted(verdict.category.scores.items(), key=lambda item: -item[1])[:3],
    }


def render_report(entries: Sequence[Entry], title: str = "Veridict report") -> str:
    """Return the HTML document.

    Raises:
        ImageError: the bytes of an entry with a verdict cannot be decoded.
    """
    views = [_view(entry) for entry in entries]
    colours = css_stops("measurement")
    return render_template(TEMPLATE, title=title, full_scale=f"{FULL_SCALE:g}", colours=colours, views=views)
