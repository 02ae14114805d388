"""Draws a dashboard's panels from a Prometheus, without Grafana: for documents, incident reports and tests.

``python deploy/observability/grafana/render.py veridict-drift --prometheus http://localhost:9090 --output drift.png``
(``matplotlib`` of the extra ``ui``). The exit status is 1 when a query fails or gets no data; it is named.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
_COLUMNS, _SERIES = 3, 16

#: A series: its labels, and (time, value) points without those that are not a number.
Series = tuple[dict[str, str], list[tuple[float, float]]]


def read_panels(uid: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard of this folder."""
    panels: list[dict[str, Any]] = json.loads((FOLDER / f"{uid}.json").read_text())["panels"]
    return panels


def query_range(prometheus: str, expression: str, seconds: float, points: int = 120) -> list[Series]:
    """Return what a Prometheus answers for the last ``seconds``; series with no number at all are left out.

    Raises:
        OSError: it does not answer, or refuses the expression.
    """
    end = time.time()
    asked = {"query": expression, "start": end - seconds, "end": end, "step": max(1.0, seconds / points)}
    url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    with urllib.request.urlopen(url, timeout=30) as response:
        result = json.load(response)["data"]["result"]
    series = [(row["metric"], [(float(when), float(value)) for when, value in row["values"]]) for row in result]
    numbers = [(labels, [point for point in found if math.isfinite(point[1])]) for labels, found in series]
    return [(labels, found) for labels, found in numbers if found]


def draw(panels: list[dict[str, Any]], answers: list[list[Series]], output: Path) -> None:
    """Draw a panel per answer; of more than 16 series those with the largest last values are shown."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 2.3 * rows), layout="constrained")
    for axes in figure.subplots(rows, _COLUMNS, squeeze=False).flat[len(panels) :]:
        axes.remove()
    for axes, panel, series in zip(figure.axes, panels, answers, strict=True):
        latest = max((points[-1][0] for _, points in series), default=0.0)
        for labels, points in sorted(series, key=lambda one: -one[1][-1][1])[:_SERIES]:
            name = " ".join(text for label, text in labels.items() if label != "__name__")
            axes.plot([when - latest for when, _ in points], [value for _, value in points], label=name[:24], lw=1)
        axes.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]", fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_ylim(bottom=0)
        if len(series) > 1 and any(set(labels) - {"__name__"} for labels, _ in series):
            axes.legend(fontsize=4, ncols=2, loc="upper left")
    figure.savefig(output, dpi=80)


def main() -> int:
    """Query and draw one dashboard."""
    parser = argparse.ArgumentParser(description="Draw a dashboard's panels from a Prometheus.")
    parser.add_argument("dashboard", choices=sorted(path.stem for path in FOLDER.glob("*.json")))
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its URL (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3 * 3600, help="time span up to now (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="PNG file to write")
    arguments = parser.parse_args()
    panels = read_panels(arguments.dashboard)
    answers: list[list[Series]] = []
    empty: list[str] = []
    for panel in panels:
        answers.append([])
        for target in panel["targets"]:
            try:
                found = query_range(arguments.prometheus, target["expr"], arguments.seconds)
            except OSError as error:
                print(f"{target['expr']}: {error}", file=sys.stderr)
                return 1
            legend = target["legendFormat"]
            fixed = {"legend": legend} if legend != "__auto" and "{{" not in legend else {}
            answers[-1] += [(fixed or labels, points) for labels, points in found]
            empty += [] if found else [f"{panel['title']}: {target['expr']}"]
    draw(panels, answers, arguments.output)
    for line in empty:
        print(f"no data for {line}", file=sys.stderr)
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
