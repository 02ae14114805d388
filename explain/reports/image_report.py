"""One image's report: the picture, its verdict and evidence, and every map. One file, no script, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veridict.forensics.contract import Verdict

from ..attribution import Attribution, Pixels
from ..errors import ExplainError
from ..methods import METHODS
from ..subject import Subject
from .maps import mark_faces
from .render import colour_table, cut_region, ends, overlay, quality_text, scale

TEMPLATE = Path(__file__).parent / "image_report.html"
_SIDE = 420
_SECTIONS = {
    "face_cnn": (
        "What the face CNN looked at",
        "One face, the largest unless another was asked for. Red speaks for fake, blue for real, in every signed map. "
        "All maps share one scale, on which each one's strongest percent is full colour.",
    ),
    "clip": (
        "What CLIP looked at",
        "The whole picture, and the margin between “a deepfake image” (red) and “a real image” (blue).",
    ),
    "forensics": (
        "Forensic maps",
        "Measurements of the file itself; bright means more, and neither colour means fake.",
    ),
}


def _data_uri(pixels: Pixels) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _map(name: str, result: Attribution | ExplainError, pixels: Pixels) -> dict[str, Any]:
    method = METHODS[name]
    if isinstance(result, ExplainError):
        return {"title": method.title, "error": result.message}
    low, high = ends(result.kind)
    stops = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colour_table(result.kind)[::15])
    return {
        "title": method.title,
        "error": "",
        "picture": _data_uri(overlay(result, pixels, _SIDE)),
        "colours": stops,
        "low": low,
        "high": high,
        "caption": method.caption,
        "full_scale": f"{scale(result).full_scale:.3g}",
        "unit": result.unit,
        "score": result.score,
        "model": result.model,
        "version": result.model_version,
        "quality": quality_text(result),
    }


def _bars(verdict: Verdict) -> list[dict[str, Any]]:
    strongest = max([abs(e.contribution) for e in verdict.evidence] + [1.0])
    return [
        {
            "signal": e.signal,
            "text": e.text,
            "contribution": e.contribution,
            "width": 50.0 * abs(e.contribution) / strongest,
        }
        for e in verdict.evidence
    ]


def render_image_report(
    title: str,
    subject: Subject,
    results: Mapping[str, Attribution | ExplainError],
    verdict: Verdict | None = None,
    why_no_verdict: str = "no detector was asked",
) -> str:
    """Return the HTML document; ``results`` holds a map, or the reason why there is none, per method name."""
    import jinja2

    pixels = subject.image.pixels
    boxes = subject.face < len(subject.boxes)
    labels = [str(i + 1) for i in range(len(subject.boxes))]
    if verdict is not None and len(verdict.faces) == len(labels):
        labels = [f"{face.fake_probability:.2f}" for face in verdict.faces]
    marked = mark_faces(pixels, [(b.x, b.y, b.width, b.height) for b in subject.boxes], labels)
    sections = []
    for model, (heading, lead) in _SECTIONS.items():
        maps = [_map(name, found, pixels) for name, found in results.items() if METHODS[name].model == model]
        if maps:
            seen = _data_uri(cut_region(pixels, subject.face_region, _SIDE)) if model == "face_cnn" and boxes else ""
            sections.append({"title": heading, "lead": lead, "maps": maps, "view": seen})
    found = len(subject.boxes)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    document = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        picture=_data_uri(cut_region(marked, subject.whole_region, 2 * _SIDE)),
        verdict=verdict,
        why_no_verdict=why_no_verdict,
        bars=_bars(verdict) if verdict else [],
        image=subject.image,
        faces=f"{found} found{'' if not found else ', marked with their fake probability' if verdict else ', marked'}",
        sections=sections,
    )
    return str(document)
