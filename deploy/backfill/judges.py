"""Who judges: a service, or the networks in this process. Both answer a verdict or a failure per image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from veridict.client import (
    ClientConfig,
    DetectorClient,
    InputError,
    InternalError,
    InvalidImageError,
    ModelVersions,
    Verdict,
    VeridictError,
)
from veridict.deploy.repository import check_repository, load_judgement
from veridict.forensics.errors import ImageError

from .patience import Patience
from .results import Failure

Outcome = Verdict | Failure
#: Tries of an image on which the server fails: it may be stopping, or the image may be the cause.
_INTERNAL_TRIES = 3
#: Batches at a time in this process: one is read and prepared while the networks judge the other.
_OVERLAP = 2


class Judge(Protocol):
    """Judges batches of images; threads may share it.

    ``parallel``: how many batches at a time keep it busy. ``batch``: images per batch.
    """

    parallel: int
    batch: int

    def judge(self, images: Sequence[bytes]) -> list[Outcome]:
        """Return an outcome per image.

        Raises:
            BackfillError: the service has answered about no image for as long as the patience lasts.
        """

    def close(self) -> None:
        """Release what it holds, and end its waits."""


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges: the service of ``client``, or with None the networks of ``repository`` on ``threads`` threads.

    ``in_flight``: requests at a time of one worker. ``patience``: seconds for which a service or a store that does not
    answer is waited for.
    """

    client: ClientConfig | None
    repository: Path | None = None
    threads: int = 1
    in_flight: int = 8
    patience: float = 600.0

    def models(self) -> ModelVersions:
        """Return which models judge.

        Raises:
            VeridictError: the service does not answer.
            RepositoryError: the repository is incomplete or altered.
        """
        if self.client is not None:
            return _ask_models(self.client)
        assert self.repository is not None
        check_repository(self.repository, "cpu")
        return load_judgement(self.repository).models

    def open(self) -> Judge:
        """Return the judge.

        Raises:
            RepositoryError: the repository is incomplete or altered.
        """
        if self.client is not None:
            return ServiceJudge(self.client, self.in_flight, Patience(self.patience))
        assert self.repository is not None
        return InProcessJudge(self.repository, self.threads)


def _ask_models(config: ClientConfig) -> ModelVersions:
    """Return the models of a server's answer about a grey image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(buffer, "PNG")
    with DetectorClient(config=config) as client:
        return client.detect(buffer.getvalue()).models


class ServiceJudge:
    """Asks a service through the client, whose retries, backoff and throttle keep the service from being overrun."""

    batch = 1

    def __init__(self, config: ClientConfig, in_flight: int, patience: Patience) -> None:
        """Connect; nothing is sent yet."""
        self.parallel = in_flight
        self._client = DetectorClient(config=replace(config, concurrency=in_flight))
        self._patience = patience

    def judge(self, images: Sequence[bytes]) -> list[Outcome]:
        """Return an outcome per image."""
        return [self._ask(data) for data in images]

    def _ask(self, data: bytes) -> Outcome:
        began, tries = self._patience.now(), 0
        while True:
            try:
                verdict = self._client.detect(data)
                self._patience.answered()
                return verdict
            except (InvalidImageError, InputError) as error:
                self._patience.answered()
                return Failure(error.code, error.message)
            except VeridictError as error:
                tries += 1
                if isinstance(error, InternalError) and tries >= _INTERNAL_TRIES:
                    return Failure(error.code, error.message)
                if not self._patience.wait(began, tries, error):
                    return Failure(error.code, error.message)

    def close(self) -> None:
        """End the waits and close the connections."""
        self._patience.stop()
        self._client.close()


class InProcessJudge:
    """Runs the networks of the CPU profile in this process."""

    parallel = _OVERLAP

    def __init__(self, repository: Path, threads: int) -> None:
        """Load the networks."""
        from veridict.export.pipeline import InProcessDetector

        from .isolation import IsolatedPool

        self.batch = 4 * threads
        self._pool = IsolatedPool(threads)
        self._detector = InProcessDetector(repository, threads, pool=self._pool)

    def judge(self, images: Sequence[bytes]) -> list[Outcome]:
        """Return an outcome per image."""
        try:
            return list(self._detector.detect(images))
        except ImageError:  # of a batch with a refused image each is judged alone
            return [self._judge_one(data) for data in images]

    def _judge_one(self, data: bytes) -> Outcome:
        try:
            return self._detector.detect([data])[0]
        except ImageError as error:
            return Failure(error.code, error.message)

    def close(self) -> None:
        """End the child processes that prepare images."""
        self._pool.shutdown()
