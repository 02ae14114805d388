"""The report of ``veridict bench``, as Markdown and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..machine import describe_machine, installed_versions
from ..tables import Comparison, ServingRow
from .serving import ColdStart
from .stages import StageProfile


@dataclass
class Report:
    """The results of one run: Markdown sections in order, and the same figures as plain values."""

    command: str
    sections: list[tuple[str, str]] = field(default_factory=list)
    rows: list[ServingRow] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    cold_starts: list[ColdStart] = field(default_factory=list)
    profiles: list[StageProfile] = field(default_factory=list)

    def add(self, title: str, *paragraphs: str) -> None:
        """Append a section."""
        self.sections.append((title, "\n\n".join(paragraphs)))

    def header(self) -> dict[str, str]:
        """Return the command, the machine, the date and the installed versions."""
        versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        return {"command": self.command, "machine": describe_machine(), "date": today, "versions": versions}

    def to_markdown(self) -> str:
        """Return the whole report as Markdown."""
        head = self.header()
        lines = (f"`{head['command']}`, {head['date']}", *(f"{k.title()}: {head[k]}" for k in ("machine", "versions")))
        parts = [
            "# Serving benchmark",
            "\n\n".join(f"{line}." for line in lines),
            *(f"## {title}\n\n{text}" for title, text in self.sections),
        ]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """Return the figures as a JSON document."""
        document: dict[str, Any] = {
            "schema": "veridict-bench/1",
            **self.header(),
            "rows": [asdict(row) for row in self.rows],
            "ratios": [{**asdict(comparison), "met": comparison.met} for comparison in self.comparisons],
            "cold": [asdict(start) for start in self.cold_starts],
            "profiles": [asdict(profile) for profile in self.profiles],
            "sections": dict(self.sections),
        }
        return json.dumps(document, indent=1)
