"""A self-contained HTML report: each image beside its verdict, reasons and ELA map; no script, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.forensics.contract import Verdict
from veridict.forensics.decode import decode_image

from .maps import FULL_SCALE, error_level_picture, mark_faces

_LONGEST = 480
TEMPLATE = Path(__file__).parent / "report.html"


@dataclass(frozen=True)
class Entry:
    """One judged image: its name, encoded bytes, and a verdict or the error text in its place."""

    name: str
    data: bytes
    verdict: Verdict | None
    error: str = ""


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_LONGEST, _LONGEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _view(entry: Entry) -> dict[str, Any]:
    if entry.verdict is None:
        return {"name": entry.name, "error": entry.error}
    verdict = entry.verdict
    image = decode_image(entry.data)
    labels = [f"{face.fake_probability:.2f}" for face in verdict.faces]
    ela = error_level_picture(image)
    strongest = max([abs(e.contribution) for e in verdict.evidence] + [1.0])
    bars = [
        {
            "signal": e.signal,
            "text": e.text,
            "contribution": e.contribution,
            "width": 50.0 * abs(e.contribution) / strongest,
            "fake": e.contribution > 0,
        }
        for e in verdict.evidence
    ]
    categories = sorted(verdict.category.scores.items(), key=lambda item: -item[1])[:3]
    return {
        "name": entry.name,
        "verdict": verdict,
        "text": verdict.to_text(),
        "picture": _data_uri(mark_faces(image.pixels, [f.box for f in verdict.faces], labels)),
        "ela": None if ela is None else _data_uri(ela),
        "ela_why_not": verdict.forensics["ela"].why_not,
        "bars": bars,
        "categories": categories,
    }


def render_report(entries: Sequence[Entry], title: str = "Veridict report") -> str:
    """Return the HTML document.

    Raises:
        ImageError: the bytes of an entry with a verdict cannot be decoded.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text())
    return str(template.render(title=title, full_scale=f"{FULL_SCALE:g}", views=[_view(entry) for entry in entries]))
