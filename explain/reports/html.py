"""What HTML reports share: the Jinja environment, images as data URIs, and the bars of a verdict's evidence."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from veridict.forensics.arrays import Pixels
from veridict.forensics.contract import Verdict

#: The folder of the templates that others extend or import.
SHARED = Path(__file__).parent


def render_template(path: Path, **values: object) -> str:
    """Return the template file at ``path``, filled in with ``values``.

    Values are escaped. An undefined name raises ``jinja2.UndefinedError`` and never prints as nothing. The template may
    extend or import other templates of its own folder and of :data:`SHARED`.

    Raises:
        ImportError: jinja2 is not installed.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return str(environment.get_template(path.name).render(**values))


def data_uri(pixels: Pixels, longest: int | None = None) -> str:
    """Return an RGB image [H, W, 3] as a WebP data URI, shrunk first if its longest side exceeds ``longest`` pixels."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if longest is not None:
        image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def evidence_bars(verdict: Verdict) -> list[dict[str, Any]]:
    """Return a bar per piece of evidence; ``width`` is in percent of the track, at most 50.

    The scale ends at the strongest contribution, or at one logit, so that weak evidence looks weak.
    """
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
