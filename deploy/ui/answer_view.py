"""The answer as HTML: verdict, sentence, evidence bars, category, measurements, faces, and fields of later versions.

Every text is escaped. Colours repeat what words say, and are readable on light and dark ground.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from veridict.explain.reports.html import evidence_bars
from veridict.forensics.contract import Verdict

#: Fields of the answer that have a place of their own on the page.
_PLACED = frozenset(
    {
        "schema",
        "request_id",
        "image",
        "verdict",
        "fake_probability",
        "confidence",
        "category",
        "clip",
        "faces",
        "forensics",
        "explanation",
        "evidence",
        "models",
        "timings_ms",
        "threshold",
        "doubts",
        "faces_found",
    }
)
_RED, _BLUE = "#c8442f", "#2f78b7"
_SPOKEN = {"deepfake": "Deepfake", "real": "Real"}
_MUTED = "opacity:.8;font-size:.9rem"


def describe(verdict: Verdict) -> str:
    """Return the verdict as one line of plain text."""
    doubt = "" if verdict.confidence == "high" else ", low confidence"
    return f"{_SPOKEN[verdict.verdict]} (fake probability {verdict.fake_probability:.2f}{doubt})"


def verdict_html(verdict: Verdict) -> str:
    """Return the verdict, a scale with the probability and the threshold, and the sentence."""
    colour = _RED if verdict.verdict == "deepfake" else _BLUE
    side = "reaches" if verdict.verdict == "deepfake" else "is below"
    low = "low confidence: a person should look" if verdict.confidence == "low" else "high confidence"
    probability, threshold = verdict.fake_probability, verdict.threshold
    doubts = f" ({escape(', '.join(d.replace('_', ' ') for d in verdict.doubts))})" if verdict.doubts else ""
    return f"""<div style="border-left:.5rem solid {colour};padding:.1rem 0 .1rem .8rem">
<h2 style="font-size:1.6rem;margin:0;padding:0">{_SPOKEN[verdict.verdict]}</h2>
<div>Fake probability <b>{probability:.2f}</b> {side} the threshold {threshold:.2f}</div>
<div aria-hidden="true" style="position:relative;height:.6rem;margin:.35rem 0;border-radius:.3rem;
background:linear-gradient(90deg,{_BLUE},#bbb,{_RED})">
<div style="position:absolute;left:{100 * threshold:.1f}%;top:-.2rem;width:2px;height:1rem;background:currentColor">
</div>
<div style="position:absolute;left:calc({100 * probability:.1f}% - .5rem);top:-.2rem;width:1rem;height:1rem;
border-radius:50%;background:#fff;border:3px solid #222;box-sizing:border-box"></div></div>
<div><b>{escape(low[0].upper() + low[1:])}</b>{doubts}</div>
<p style="margin:.5rem 0 0">{escape(verdict.explanation)}</p></div>"""


def evidence_html(verdict: Verdict) -> str:
    """Return the evidence as a table with a bar per term: to the right speaks for fake, to the left for real."""
    rows = []
    for bar in evidence_bars(verdict):
        fake = bar["contribution"] > 0
        place = "left:50%" if fake else "right:50%"
        colour = _RED if fake else _BLUE
        rows.append(
            f'<tr><th scope="row" style="text-align:left;font-weight:600;padding:.25rem .5rem .25rem 0;border:0">'
            f'{escape(bar["signal"])}<div style="{_MUTED};font-weight:400">{escape(bar["text"])}</div></th>'
            f'<td style="width:38%;min-width:6rem;border:0"><div aria-hidden="true" style="position:relative;'
            f'height:.8rem;background:rgba(128,128,128,.22)"><div style="position:absolute;{place};height:100%;'
            f'width:{bar["width"]:.1f}%;background:{colour}"></div><div style="position:absolute;left:50%;width:1px;'
            f'height:100%;background:currentColor"></div></div></td>'
            f'<td style="text-align:right;padding-left:.5rem;white-space:nowrap;border:0">'
            f"{bar['contribution']:+.2f}</td></tr>"
        )
    return (
        '<table style="width:100%;border-collapse:collapse"><caption style="text-align:left;' + _MUTED + '">'
        "Contribution to the logit: to the right (plus) speaks for fake, to the left (minus) for real</caption>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def table_html(caption: str, rows: Mapping[str, str]) -> str:
    """Return a table of names and texts with a caption."""
    cells = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:400;{_MUTED};padding:.15rem .8rem .15rem 0;'
        f'border:0;width:35%;vertical-align:top">{escape(name)}</th>'
        f'<td style="padding:.15rem 0;border:0;overflow-wrap:anywhere">{escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return (
        '<table style="width:100%;border-collapse:collapse"><caption style="text-align:left;font-weight:600">'
        f"{escape(caption)}</caption><tbody>{cells}</tbody></table>"
    )


def category_rows(verdict: Verdict, most: int = 4) -> dict[str, str]:
    """Return the most likely categories with their probabilities."""
    best = sorted(verdict.category.scores.items(), key=lambda pair: -pair[1])[:most]
    return {name: f"{share:.0%}" for name, share in best}


def face_rows(verdict: Verdict) -> dict[str, str]:
    """Return a row per face: its place and its score."""
    return {
        f"face {number}": f"fake probability {face.fake_probability:.2f}, at {face.box[0]}, {face.box[1]}, "
        f"{face.box[2]} x {face.box[3]} pixels"
        for number, face in enumerate(verdict.faces, 1)
    }


def measurement_rows(verdict: Verdict) -> dict[str, str]:
    """Return a row per forensic signal and one for CLIP."""
    rows = {"CLIP": f"real {verdict.clip.real:.2f}, deepfake {verdict.clip.deepfake:.2f}"}
    for name, signal in verdict.forensics.items():
        if signal.value is None:
            rows[name] = f"does not apply: {signal.why_not}"
        else:
            place = "" if signal.percentile is None else f", percentile {signal.percentile:.0f} of real photographs"
            rows[name] = f"{signal.value:.2f} ({signal.reading or 'no reading'}{place})"
    return rows


def file_rows(document: str) -> dict[str, str]:
    """Return the facts of the file, with those that only a later version knows, and the models that judged."""
    answer = json.loads(document)
    image = answer["image"]
    rows = {"size": f"{image['width']} x {image['height']} pixels, {image['format']}, {image['bytes']:,} bytes"}
    rest = {name: value for name, value in image.items() if name not in ("width", "height", "format", "bytes")}
    rows |= _flatten(rest) | {f"model {name}": str(value) for name, value in answer["models"].items() if value}
    rows["request"] = str(answer["request_id"])
    return rows


def further_parts(document: str) -> dict[str, dict[str, str]]:
    """Return the parts of the answer that have no place of their own, such as provenance or known content.

    Keys are headings. Empty parts are left out. So a field that a later server adds is shown without a change here.
    """
    parts = {}
    for name, value in json.loads(document).items():
        if name in _PLACED or value in (None, "", [], {}, False):
            continue
        rows = _flatten(value) if isinstance(value, dict | list) else {"": str(value)}
        if rows:
            parts[name.replace("_", " ").capitalize()] = rows
    return parts


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flatten(value: Any, prefix: str = "", most: int = 60) -> dict[str, str]:
    """Return nested values as rows whose names are paths; at most ``most``, so that no answer floods the page."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value, 1)
    rows: dict[str, str] = {}
    for key, part in pairs:
        name = f"{prefix} {str(key).replace('_', ' ')}".strip()
        if isinstance(part, dict | list):
            rows |= _flatten(part, name, most)
        elif part not in (None, ""):
            rows[name] = _as_text(part)
        if len(rows) >= most:
            break
    return dict(list(rows.items())[:most])
