"""The pipelines that the benchmark measures, behind one interface: on Triton, in this process, or a peer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.deploy.launcher import TritonServer
from veridict.export.pipeline import InProcessDetector
from veridict.forensics import signature as sig

from ..closed_loop import Call, RejectedError
from ..machine import ProcessTree
from .peers import PeerServer

#: What the reports call the pipeline without a server.
IN_PROCESS = "in-process loop"
_OVERLOADED = ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")


class Pipeline(ABC):
    """Something that judges encoded images.

    ``in_process``: it runs in the load generator's process. ``serial``: it judges one image at a time whatever the
    concurrency. ``pausable``: it takes CPU time even when idle, so it is suspended while others are measured.
    """

    pausable = False
    in_process = False
    serial = False

    def __init__(self, name: str, tree: ProcessTree | None) -> None:
        """Take the name in the reports and the process tree; None if it has no processes of its own."""
        self.name, self.tree = name, tree

    @abstractmethod
    def connect(self, data: bytes, batch: int) -> AbstractContextManager[Call]:
        """Open one thread's connection and yield its call, which judges ``batch`` copies of ``data``."""

    def pause(self) -> None:
        """Suspend the processes of a pausable pipeline while another one is measured."""
        if self.pausable and self.tree is not None:
            self.tree.pause()

    def resume(self) -> None:
        """Continue the processes of a pausable pipeline."""
        if self.pausable and self.tree is not None:
            self.tree.resume()


def encode_request(data: bytes, batch: int) -> triton.InferInput:
    """Return the ``IMAGE`` tensor [batch, 1] with ``data`` in every row."""
    tensor = triton.InferInput(sig.IMAGE.name, [batch, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]] * batch, dtype=np.object_))
    return tensor


class TritonPipeline(Pipeline):
    """The detector on a running tritonserver, called over gRPC; verdict documents are received but not parsed.

    It is never suspended: it takes next to no CPU time when idle, and it would treat suspended stub processes as dead.
    """

    def __init__(self, server: TritonServer) -> None:
        """Take a ready server."""
        super().__init__("Veridict on Triton", ProcessTree(server.pid))
        self.url = server.url

    @contextmanager
    def connect(self, data: bytes, batch: int = 1) -> Iterator[Call]:
        """Open a client and yield its call."""
        with triton.InferenceServerClient(self.url) as client:
            outputs = [triton.InferRequestedOutput(sig.VERDICT.name)]

            def call() -> int:
                # Every request gets a new tensor, as requests with different images would.
                request = encode_request(data, batch)
                try:
                    client.infer(sig.DETECTOR.name, [request], outputs=outputs, client_timeout=120.0)
                except InferenceServerException as error:
                    if error.status() in _OVERLOADED:
                        raise RejectedError from error
                    raise
                return batch

            yield call


class InProcessPipeline(Pipeline):
    """The same stages in this process without a server, ``batch`` images per call.

    ``overlap`` is the number of calling threads: with two, one batch is decoded while the networks run on the other.
    """

    in_process = True

    def __init__(self, detector: InProcessDetector, batch: int, overlap: int = 1) -> None:
        """Take the loaded detector."""
        name = f"{IN_PROCESS}, one at a time" if batch == 1 else f"{IN_PROCESS}, batches of {batch}"
        super().__init__(name + (f", {overlap} at once" if overlap > 1 else ""), None)
        self._detector, self.batch, self.overlap = detector, batch, overlap

    @contextmanager
    def connect(self, data: bytes, batch: int = 1) -> Iterator[Call]:
        """Yield the call; it judges this pipeline's own batch size, not ``batch``."""
        images = [data] * self.batch

        def call() -> int:
            return len(self._detector.detect(images))

        yield call


class PeerPipeline(Pipeline):
    """A running peer; its processes are suspended while others are measured."""

    pausable = True

    def __init__(self, server: PeerServer) -> None:
        """Take a ready peer."""
        super().__init__(server.peer.name, ProcessTree(server.pid))
        self.serial = server.peer.serial
        self._server = server

    def connect(self, data: bytes, batch: int = 1) -> AbstractContextManager[Call]:
        """Open a keep-alive HTTP connection; a call judges one image."""
        return self._server.connect(data)
