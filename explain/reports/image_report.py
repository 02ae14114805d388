"""The HTML report of one image: the image, its verdict and evidence, and every map.

The report is one file without scripts, and it fetches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veridict.forensics.arrays import Pixels
from veridict.forensics.contract import Verdict

from ..attribution import Attribution
from ..errors import ExplainError
from ..methods import METHODS
from ..subject import Subject
from .colours import css_stops, ends
from .html import data_uri, evidence_bars, render_template
from .maps import mark_faces
from .render import cut_region, overlay, quality_text, scale

TEMPLATE = Path(__file__).parent / "image_report.html"
_SIDE = 420
#: Heading and introduction of the maps of each model.
_SECTIONS = {
    "face_cnn": (
        "What the face CNN looked at",
        "One face: the most suspicious one unless another was asked for. In every signed map red speaks for fake and "
        "blue for real. All maps share one scale: the strongest 1% of each map is full colour.",
    ),
    "token_head": (
        "Where the fine structure speaks for fake or real",
        "The whole image. The maps explain the signal “tokens”, a head on CLIP's class tokens: red speaks for a "
        "generated image, blue for a real one.",
    ),
    "clip": (
        "What CLIP looked at",
        "The whole image. The maps explain the margin between “a deepfake image” (red) and “a real image” (blue).",
    ),
    "forensics": (
        "Forensic maps",
        "Measurements of the file itself. Bright means more; neither bright nor dark means fake.",
    ),
}


def _map(name: str, result: Attribution | ExplainError, pixels: Pixels) -> dict[str, Any]:
    method = METHODS[name]
    if isinstance(result, ExplainError):
        return {"title": method.title, "error": result.message}
    return {
        "title": method.title,
        "error": "",
        "image": data_uri(overlay(result, pixels, _SIDE)),
        "colours": css_stops(result.kind),
        "ends": ends(result.kind),
        "caption": method.caption,
        "full_scale": f"{scale(result).full_scale:.3g}",
        "unit": result.unit,
        "score": result.score,
        "model": result.model,
        "version": result.model_version,
        "quality": quality_text(result),
    }


def render_image_report(
    title: str,
    subject: Subject,
    results: Mapping[str, Attribution | ExplainError],
    verdict: Verdict | None = None,
    why_no_verdict: str = "no detector was asked",
) -> str:
    """Return the HTML document; ``results`` holds per method name the map, or the error that says why there is none."""
    pixels = subject.image.pixels
    explained = [r for r in results.values() if isinstance(r, Attribution) and r.model == "face_cnn"]
    labels = [str(i + 1) for i in range(len(subject.boxes))]
    if verdict is not None and len(verdict.faces) == len(labels):
        labels = [f"{face.fake_probability:.2f}" for face in verdict.faces]
    marked = mark_faces(pixels, [(b.x, b.y, b.width, b.height) for b in subject.boxes], labels)
    sections = []
    for model, (heading, lead) in _SECTIONS.items():
        maps = [_map(name, found, pixels) for name, found in results.items() if METHODS[name].model == model]
        if maps:
            seen = data_uri(cut_region(pixels, explained[0].region, _SIDE)) if model == "face_cnn" and explained else ""
            sections.append({"title": heading, "lead": lead, "maps": maps, "view": seen})
    found = len(subject.boxes)
    return render_template(
        TEMPLATE,
        title=title,
        marked=data_uri(cut_region(marked, subject.whole_region, 2 * _SIDE)),
        verdict=verdict,
        why_no_verdict=why_no_verdict,
        bars=evidence_bars(verdict) if verdict else [],
        image=subject.image,
        faces=f"{found} found{'' if not found else ', marked with their fake probability' if verdict else ', marked'}",
        sections=sections,
    )
