"""Stores images and results in a folder or an object store, through fsspec.

images/<sha256>                            the submitted file
results/<sha256>/<job>/values.npz          the float32 map
results/<sha256>/<job>/figure.png          overlay, colour bar and legend
results/<sha256>/<job>/result.json         everything else; written last, so a result that has it is complete
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from veridict.deploy.durable_files import write_durably

from ..attribution import Attribution
from ..errors import CODES, ExplainError

SCHEMA = "veridict-explanation/1"
_JOB = re.compile(r"(?P<sha>[0-9a-f]{64})-[a-z0-9_]+-[A-Za-z0-9._-]+")
_SHA = re.compile(r"[0-9a-f]{64}")


def image_of(job: str) -> str:
    """Return the sha256 of the image in a job id.

    Raises:
        ExplainError: ``explain.unknown_job`` when ``job`` is not a job id (a job id becomes part of a path).
    """
    found = _JOB.fullmatch(job)
    if found is None or ".." in job:
        raise ExplainError("explain.unknown_job", job[:120])
    return found["sha"]


class Store:
    """Keeps images and results under one URL; threads may share it. Storage failures are ``explain.store``."""

    def __init__(self, url: str) -> None:
        """Take a folder or a URL of fsspec (``s3://bucket/prefix``); fsspec reads its options from the environment."""
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ExplainError("explain.store", f"{url.split('://')[0]}: {error}") from error
        self.url = url
        self._local = "file" in self._fs.protocol

    def put_image(self, data: bytes) -> str:
        """Store an encoded image unless it is stored already; return its sha256."""
        sha = hashlib.sha256(data).hexdigest()
        if not self._exists(f"images/{sha}"):
            self._write(f"images/{sha}", data)
        return sha

    def get_image(self, sha256: str) -> bytes:
        """Return a stored image.

        Raises:
            ExplainError: ``explain.unknown_image``, or ``explain.store`` (also when the bytes do not match the sha256).
        """
        if not _SHA.fullmatch(sha256):
            raise ExplainError("explain.unknown_image", sha256[:80])
        data = self._read(f"images/{sha256}")
        if data is None:
            self._check_root()
            raise ExplainError("explain.unknown_image", sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ExplainError("explain.store", f"the stored image {sha256[:12]} is damaged")
        return data

    def put_result(self, job: str, result: Attribution, figure: bytes) -> None:
        """Store a finished explanation; when this returns, it is on the disk or in the object store."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, values=result.values)
        folder = self._folder(job)
        self._write(f"{folder}/values.npz", buffer.getvalue())
        self._write(f"{folder}/figure.png", figure)
        self._write_document(job, {"state": "done", **result.document()})

    def put_failure(self, job: str, error: ExplainError) -> None:
        """Store the final error of a job that has no explanation."""
        self._write_document(job, {"state": "failed", "code": error.code, "message": error.message})

    def state(self, job: str) -> str | None:
        """Return ``done`` or ``failed`` for a stored job, None for a job without a stored result."""
        document = self._document(job)
        return None if document is None else str(document["state"])

    def get_result(self, job: str) -> Attribution:
        """Return a stored explanation.

        Raises:
            ExplainError: ``explain.not_ready`` when nothing is stored; the stored error when the job failed.
        """
        document = self._document(job)
        if document is None:
            raise ExplainError("explain.not_ready", job)
        if document["state"] == "failed":
            code = document.get("code", "")
            error = ExplainError(code if code in CODES else "explain.internal")
            error.message = str(document.get("message", error.message))
            raise error
        values = self._read(f"{self._folder(job)}/values.npz")
        if values is None:
            raise ExplainError("explain.store", f"the values of {job} are missing")
        with np.load(io.BytesIO(values), allow_pickle=False) as arrays:
            return Attribution.from_document(document, arrays["values"])

    def get_figure(self, job: str) -> bytes:
        """Return the figure (PNG) of a stored explanation, or raise ``explain.not_ready``."""
        data = self._read(f"{self._folder(job)}/figure.png")
        if data is None:
            raise ExplainError("explain.not_ready", job)
        return data

    def check(self) -> None:
        """Write a small object and read it back; raise ``explain.store`` when that fails."""
        self._write("health", b"ok")
        if self._read("health") != b"ok":
            raise ExplainError("explain.store", "a written object reads back different")

    def _check_root(self) -> None:
        """Raise ``explain.store`` when the folder or bucket of the store does not exist."""
        root = self._root if self._local else self._root.strip("/").partition("/")[0]
        try:
            exists = self._fs.exists(root)
        except Exception as error:
            raise _store_error(error) from error
        if not exists:
            raise ExplainError("explain.store", f"there is no {root}")

    @staticmethod
    def _folder(job: str) -> str:
        return f"results/{image_of(job)}/{job}"

    def _document(self, job: str) -> dict[str, Any] | None:
        data = self._read(f"{self._folder(job)}/result.json")
        if data is None:
            return None
        document = json.loads(data)
        if document.get("schema") != SCHEMA:
            raise ExplainError("explain.store", f"the document of {job} is not of schema {SCHEMA}")
        return dict(document)

    def _write_document(self, job: str, document: dict[str, Any]) -> None:
        text = json.dumps({"schema": SCHEMA, "job": job, **document}, indent=1)
        self._write(f"{self._folder(job)}/result.json", text.encode())

    def _exists(self, name: str) -> bool:
        try:
            return bool(self._fs.exists(f"{self._root}/{name}"))
        except Exception as error:  # every object store has its own exception types
            raise _store_error(error) from error

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _store_error(error) from error

    def _write(self, name: str, data: bytes) -> None:
        try:
            if self._local:
                write_durably(Path(self._root) / name, data)
            else:
                self._fs.pipe_file(f"{self._root}/{name}", data)  # one PUT: stored completely or not at all
        except Exception as error:
            raise _store_error(error) from error


def _store_error(error: Exception) -> ExplainError:
    if isinstance(error, ExplainError):
        return error
    # The names of files and buckets stay out of the message, which callers see.
    reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return ExplainError("explain.store", f"{type(error).__name__}{reason}")
