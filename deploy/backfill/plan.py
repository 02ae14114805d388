"""The plan of a backfill: which images, cut into which chunks, judged by which models.

It is made once and kept in the output folder, so a resumed run has exactly the chunks of the first one, also when
images have come or gone meanwhile:

images.parquet    ``source`` of every image; row group n is chunk n
plan.json         everything else; written last, so a plan that has it is complete
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from veridict.client import ModelVersions

from .listing import find_sources
from .storage import BackfillError, Folder

SCHEMA = "veridict-backfill/1"
PLAN, IMAGES = "plan.json", "images.parquet"
#: Images per chunk. A killed worker loses the chunks that it had in hand, and progress is counted in chunks.
CHUNK = 256
_DIGITS = 16


@dataclass(frozen=True)
class Request:
    """What the command line asks to be judged; ``chunk`` None: that of the plan, or :data:`CHUNK` for a new one."""

    inputs: tuple[str, ...]
    column: str = "path"
    limit: int | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class Plan:
    """A plan: ``images`` of them in chunks of ``chunk``; ``sources`` is the sha256 over their sorted names."""

    inputs: tuple[str, ...]
    column: str
    limit: int | None
    chunk: int
    images: int
    sources: str
    models: ModelVersions

    @property
    def chunks(self) -> int:
        """Return the number of chunks."""
        return -(-self.images // self.chunk)

    @property
    def id(self) -> str:
        """Return 16 hexadecimal digits that change with anything in the plan."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:_DIGITS]

    def first(self, chunk: int) -> int:
        """Return the index of a chunk's first image."""
        return chunk * self.chunk

    def size(self, chunk: int) -> int:
        """Return the number of images of a chunk."""
        return min(self.chunk, self.images - self.first(chunk))

    def to_json(self) -> str:
        """Return the document that is stored."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)


def _parse(text: bytes, where: str) -> Plan:
    try:
        document: dict[str, Any] = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, not {SCHEMA!r}")
        values = {field.name: document[field.name] for field in fields(Plan)}
        return Plan(**{**values, "inputs": tuple(values["inputs"]), "models": ModelVersions(**values["models"])})
    except (ValueError, KeyError, TypeError) as error:
        raise BackfillError(f"{where} is damaged ({error}); use another --output") from error


def open_plan(folder: Folder, request: Request, models: ModelVersions) -> tuple[Plan, bool]:
    """Return the plan in the folder, or make it; and whether it was there.

    Raises:
        BackfillError: the plan in the folder is of another request or of other models; or an input cannot be listed.
    """
    text = folder.read(PLAN)
    if text is None:
        return _make_plan(folder, request, models), False
    plan = _parse(text, f"{folder.url}/{PLAN}")
    asked: dict[str, Any] = {"inputs": request.inputs, "limit": request.limit, "models": models}
    asked |= {"column": request.column, "chunk": request.chunk or plan.chunk}
    for name, value in asked.items():
        planned = getattr(plan, name)
        if planned != value:
            raise BackfillError(
                f"{folder.url} holds a backfill with other {name}: {_show(planned)}, not {_show(value)}; "
                "resume it with the same options and models, or use another --output"
            )
    return plan, True


def _show(value: Any) -> str:
    if isinstance(value, ModelVersions):
        return ", ".join(f"{name} {version or '?'}" for name, version in vars(value).items())
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _make_plan(folder: Folder, request: Request, models: ModelVersions) -> Plan:
    sources = find_sources(request.inputs, request.column, request.limit)
    chunk = request.chunk or CHUNK
    digest = hashlib.sha256("\n".join(sources).encode()).hexdigest()
    plan = Plan(request.inputs, request.column, request.limit, chunk, len(sources), digest, models)
    folder.write(IMAGES, _encode_list(sources, chunk))
    folder.write(PLAN, plan.to_json().encode())
    return plan


def _encode_list(sources: Sequence[str], chunk: int) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"source": pa.array(sources, pa.string())})
    pq.write_table(table, buffer, row_group_size=chunk, compression="zstd")
    return buffer.getvalue()


class ImageList:
    """Reads the images of one chunk after the other from the plan; threads may share it."""

    def __init__(self, folder: Folder, plan: Plan) -> None:
        """Open the list.

        Raises:
            BackfillError: it does not have the chunks of the plan.
        """
        self._table = pq.ParquetFile(folder.open(IMAGES))
        self._lock = threading.Lock()
        if (self._table.metadata.num_rows, self._table.num_row_groups) != (plan.images, plan.chunks):
            raise BackfillError(f"{folder.url}/{IMAGES} does not belong to its {PLAN}; use another --output")

    def sources(self, chunk: int) -> list[str]:
        """Return the images of a chunk, in order."""
        with self._lock:
            names: list[str] = self._table.read_row_group(chunk).column(0).to_pylist()
            return names
