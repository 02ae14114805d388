"""The results: one Parquet file per chunk, one row per image, and what a file holds in its footer.

A file that is there is complete, and its name says which chunk it holds, so a chunk that is judged twice (its worker
was killed, or two runs wrote into one folder) still has one result per image.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from veridict.client import ModelVersions, Verdict

from .plan import Plan
from .storage import Folder

RESULTS = "results"
_FACTS = b"veridict.backfill"
#: Columns of the results. The verdict's columns are null for an image with an error, and the error's for one without.
COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("source", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("judged_at", pa.timestamp("us", "UTC")),
        ("verdict", pa.string()),
        ("fake_probability", pa.float64()),
        ("threshold", pa.float64()),
        ("confidence", pa.string()),
        ("doubts", pa.list_(pa.string())),
        ("category", pa.string()),
        ("models", pa.struct([(name, pa.string()) for name in ModelVersions.__dataclass_fields__])),
        ("document", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
    ]
)


@dataclass(frozen=True)
class Failure:
    """Why an image has no verdict: a stable code such as ``image.corrupt``, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Judged:
    """One image and its outcome; ``sha256`` and ``size`` (bytes) of its file, None where it could not be read."""

    index: int
    source: str
    sha256: str | None
    size: int | None
    outcome: Verdict | Failure


@dataclass(frozen=True)
class PartFacts:
    """What one file of results holds, for the summary: kept in its footer, so that no row is read for it."""

    plan: str
    chunk: int
    images: int
    verdicts: dict[str, int] = field(default_factory=dict)
    low_confidence: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> PartFacts:
        """Return the facts of :meth:`to_json`."""
        return cls(**json.loads(text))


def part_name(chunk: int) -> str:
    """Return the name of a chunk's file within the output folder."""
    return f"{RESULTS}/part-{chunk:08d}.parquet"


def encode_part(plan: Plan, chunk: int, judged: Sequence[Judged]) -> tuple[bytes, PartFacts]:
    """Return a chunk's file and its facts."""
    verdicts = [item.outcome for item in judged if isinstance(item.outcome, Verdict)]
    facts = PartFacts(
        plan.id,
        chunk,
        len(judged),
        dict(Counter(v.verdict for v in verdicts)),
        sum(v.confidence == "low" for v in verdicts),
        dict(Counter(item.outcome.code for item in judged if isinstance(item.outcome, Failure))),
    )
    now = datetime.now(UTC)
    table = pa.Table.from_pylist([_row(item, now) for item in judged], COLUMNS)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_FACTS: facts.to_json()}), buffer, compression="zstd")
    return buffer.getvalue(), facts


def _row(item: Judged, now: datetime) -> dict[str, Any]:
    row: dict[str, Any] = {"index": item.index, "source": item.source, "sha256": item.sha256, "bytes": item.size}
    row["judged_at"] = now
    if isinstance(item.outcome, Failure):
        return row | {"error_code": item.outcome.code, "error_message": item.outcome.message}
    verdict = item.outcome
    return row | {
        "verdict": verdict.verdict,
        "fake_probability": verdict.fake_probability,
        "threshold": verdict.threshold,
        "confidence": verdict.confidence,
        "doubts": list(verdict.doubts),
        "category": verdict.category.label,
        "models": vars(verdict.models),
        "document": verdict.to_json(),
    }


def read_facts(stream: IO[bytes]) -> PartFacts | None:
    """Return the facts of a file of results; None when it is damaged or holds something else."""
    try:
        metadata = pq.read_metadata(stream)
        facts = PartFacts.from_json(metadata.metadata[_FACTS])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    return facts if metadata.num_rows == facts.images else None


def stored_facts(folder: Folder, plan: Plan, chunk: int) -> PartFacts | None:
    """Return the facts of a chunk that is stored completely; None when it must be judged."""
    try:
        with folder.open(part_name(chunk)) as stream:
            facts = read_facts(stream)
    except FileNotFoundError:
        return None
    belongs = facts is not None and (facts.plan, facts.chunk, facts.images) == (plan.id, chunk, plan.size(chunk))
    return facts if belongs else None


@dataclass
class Totals:
    """The sums over files of results."""

    chunks: set[int] = field(default_factory=set)
    images: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    low_confidence: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, facts: PartFacts) -> None:
        """Add a file; each chunk counts once."""
        if facts.chunk not in self.chunks:
            self.chunks.add(facts.chunk)
            self.images += facts.images
            self.verdicts.update(facts.verdicts)
            self.low_confidence += facts.low_confidence
            self.errors.update(facts.errors)

    @classmethod
    def of(cls, parts: Iterable[PartFacts]) -> Totals:
        """Return the sums over some files."""
        totals = cls()
        for facts in parts:
            totals.add(facts)
        return totals
