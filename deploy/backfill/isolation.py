"""Preparing images in child processes with limits, as the server does, for the networks in this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from veridict.deploy.serving.batching_executor import DeadlineExceeded
from veridict.deploy.serving.prepare_pool import ForkServer, PreparePool
from veridict.deploy.serving.prepare_process import ProcessFailed, ProcessSettings
from veridict.forensics.errors import ImageError
from veridict.forensics.preprocess import Prepared

from .storage import BackfillError

#: Limits of one image, as the server has them: memory in bytes, seconds of processor time; and seconds in all.
_MEMORY, _SECONDS, _LONGEST = 2048 * 2**20, 8.0, 120.0


class IsolatedPool(ThreadPoolExecutor):
    """Runs ``prepare`` in child processes: an image that crashes its decoder is refused, and nothing else ends."""

    def __init__(self, threads: int) -> None:
        """Start a child per thread."""
        super().__init__(threads)
        self._server = ForkServer()
        self._children = PreparePool(self._server, threads, ProcessSettings(_MEMORY), _SECONDS)

    def submit(self, function: Callable[..., Any], /, *images: Any, **named: Any) -> Future[Any]:
        """Prepare one encoded image, whatever ``function`` is."""
        return super().submit(self._prepare, *images)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads and the children."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._children.close()
        self._server.close()

    def _prepare(self, data: bytes) -> Prepared:
        try:
            return self._children.prepare(data, time.monotonic() + _LONGEST)
        except DeadlineExceeded:
            raise ImageError("image.decode_timeout") from None
        except ProcessFailed as error:
            raise BackfillError(f"cannot prepare images: {error}") from error
