"""What a block of the benchmark drives: the served detector, the bare computation, or a peer, behind one interface."""

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

from ..closed_loop import Call, RefusedError
from ..machine import ProcessTree
from .peers import PeerServer

_UNAVAILABLE = ("StatusCode.UNAVAILABLE", "StatusCode.RESOURCE_EXHAUSTED")


class Subject(ABC):
    """Something that judges encoded images.

    ``in_process``: the computation runs in the generator's process. ``serial``: one image at a time whatever is asked.
    ``pausable``: idle it would still take CPU time from what is measured.
    """

    pausable = False
    in_process = False
    serial = False

    def __init__(self, name: str, tree: ProcessTree | None) -> None:
        """Name it, and its processes where it has any."""
        self.name, self.tree = name, tree

    @abstractmethod
    def connect(self, data: bytes, batch: int) -> AbstractContextManager[Call]:
        """Open what one thread calls with; a call judges ``batch`` copies of ``data``."""

    def pause(self) -> None:
        """Stop its processes while another one is measured, where that is needed."""
        if self.pausable and self.tree is not None:
            self.tree.pause()

    def resume(self) -> None:
        """Let them go on."""
        if self.pausable and self.tree is not None:
            self.tree.resume()


def encode_request(data: bytes, batch: int) -> triton.InferInput:
    """Return the ``IMAGE`` tensor [batch, 1] that holds ``data`` in every row."""
    tensor = triton.InferInput(sig.IMAGE.name, [batch, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data]] * batch, dtype=np.object_))
    return tensor


class Served(Subject):
    """The detector on a running tritonserver, called over gRPC; verdict documents are received, not parsed.

    It is never paused: idle it takes next to no CPU, and it would take stopped stubs for dead ones.
    """

    def __init__(self, server: TritonServer) -> None:
        """Take a ready server."""
        super().__init__("Veridict on Triton", ProcessTree(server.pid))
        self.url = server.url

    @contextmanager
    def connect(self, data: bytes, batch: int = 1) -> Iterator[Call]:
        """Open a client, yield its call."""
        with triton.InferenceServerClient(self.url) as client:
            wanted = [triton.InferRequestedOutput(sig.VERDICT.name)]

            def call() -> int:
                # The tensor is made anew each time, as for pictures that differ.
                request = encode_request(data, batch)
                try:
                    client.infer(sig.DETECTOR.name, [request], outputs=wanted, client_timeout=120.0)
                except InferenceServerException as error:
                    if error.status() in _UNAVAILABLE:
                        raise RefusedError from error
                    raise
                return batch

            yield call


class Bare(Subject):
    """The same stages in this process without a server, ``batch`` images per call.

    Between blocks nothing of it runs. ``overlap`` is the number of threads that feed it: with two, one batch is decoded
    while the networks run on another one.
    """

    in_process = True

    def __init__(self, detector: InProcessDetector, batch: int, overlap: int = 1) -> None:
        """Take the loaded detector."""
        name = "bare loop, one at a time" if batch == 1 else f"bare loop, batches of {batch}"
        super().__init__(name + (f", {overlap} at once" if overlap > 1 else ""), None)
        self._detector, self.batch, self.overlap = detector, batch, overlap

    @contextmanager
    def connect(self, data: bytes, batch: int = 1) -> Iterator[Call]:
        """Yield the call."""
        images = [data] * self.batch

        def call() -> int:
            return len(self._detector.detect(images))

        yield call


class PeerSubject(Subject):
    """A running peer; its processes stand still while others are measured."""

    pausable = True

    def __init__(self, server: PeerServer) -> None:
        """Take a ready peer."""
        super().__init__(server.peer.name, ProcessTree(server.pid))
        self.serial = server.peer.serial
        self._server = server

    def connect(self, data: bytes, batch: int = 1) -> AbstractContextManager[Call]:
        """Open a keep-alive HTTP connection."""
        return self._server.connect(data)
