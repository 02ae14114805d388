"""The HTML report of ``veridict evaluate``: self-contained, its plots inline SVG made by matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridict.explain.reports.html import render_template

from ..datasets import LABELS
from .metrics import reliability, roc_auc
from .summary import COLUMNS, Judged, signal_score

TEMPLATE = Path(__file__).parent / "report.html"
#: Okabe and Ito's palette, which colour-blind people can tell apart.
_COLOURS = (
    "#000000",
    "#0072b2",
    "#56b4e9",
    "#009e73",
    "#d55e00",
    "#e69f00",
    "#cc79a7",
    "#999999",
)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def roc_plot(judged: Sequence[Judged]) -> str:
    """Return an SVG of every signal's ROC curve over the images it applies to."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(5.2, 4.6))
    axes = figure.subplots()
    labels = np.array([LABELS[j.sample.label] for j in judged])
    for signal, colour in zip(COLUMNS, itertools.cycle(_COLOURS)):
        values = np.array([signal_score(j, signal) for j in judged])
        known = ~np.isnan(values)
        y, v = labels[known], values[known]
        if 0 < y.sum() < y.size:
            name = f"{signal} {roc_auc(y, v):.3f} ({y.size} images)"
            false, true, _ = roc_curve(y, v, drop_intermediate=False)
            axes.plot(false, true, color=colour, label=name, linewidth=2.2 if signal == "fused" else 1.2)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
    axes.set(xlabel="share of real images called fake", ylabel="share of fakes found", xlim=(0, 1), ylim=(0, 1.01))
    axes.set_title("ROC per signal, with the area under it")
    axes.legend(fontsize=7, loc="lower right")
    return _svg(figure)


def reliability_plot(judged: Sequence[Judged]) -> str:
    """Return an SVG of the share of fakes against the stated fake probability, in ten equal-count bins."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.6))
    axes = figure.subplots()
    labels = np.array([LABELS[j.sample.label] for j in judged])
    stated, seen = reliability(labels, np.array([j.verdict.fake_probability for j in judged]))
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle="--")
    axes.plot(stated, seen, color=_COLOURS[1], marker="o", linewidth=1.5)
    axes.set(xlabel="stated fake probability", ylabel="share of fakes among them", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Reliability of the fused probability")
    return _svg(figure)


def write_report(path: Path, judged: dict[str, list[Judged]], reports: dict[str, dict[str, Any]]) -> None:
    """Write the report of every tier to ``path``.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2  # noqa: F401 - fail before the plots are drawn
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the report needs jinja2 and matplotlib ({error}): pip install 'veridict[ui]'") from error
    tiers = [
        {"name": tier, "report": reports[tier], "roc": roc_plot(part), "reliability": reliability_plot(part)}
        for tier, part in judged.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_template(TEMPLATE, tiers=tiers, signals=COLUMNS))
