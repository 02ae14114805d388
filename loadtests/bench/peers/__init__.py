"""The peers that Veridict is compared with: other ways to serve the same task, one module each, on loopback ports."""

from __future__ import annotations

import http.client
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ...closed_loop import Call, RejectedError

_HOST = "127.0.0.1"
_OVERLOADED = (429, 503)


class PeerError(RuntimeError):
    """A peer could not be started or gave no answer; the message contains the last lines of its output."""


@dataclass(frozen=True)
class Peer:
    """How to start one peer: its module in this package, its arguments, and the packages it needs.

    ``note`` describes it in reports. ``serial`` peers judge one image at a time, so two clients saturate them.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    note: str
    serial: bool = False

    def missing_packages(self) -> list[str]:
        """Return the needed packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


_TEXTBOOK = ("flask", "torch", "open_clip", "safetensors")
TEXTBOOK = Peer(
    "textbook, Flask",
    "textbook",
    ("--residual", "median"),
    _TEXTBOOK,
    "PyTorch eager fp32 with the same weights, Pillow ELA, float64 Laplacian, 3x3 median residual, Haar cascade",
    serial=True,
)
TEXTBOOK_NLM = Peer(
    "textbook with non-local means, Flask",
    "textbook",
    ("--residual", "nlm"),
    _TEXTBOOK,
    "the same with OpenCV's fastNlMeansDenoising, the noise residual of most tutorials",
    serial=True,
)
FASTAPI_ONNX = Peer(
    "FastAPI, ONNX Runtime",
    "fastapi_server",
    ("--runtime", "onnxruntime"),
    ("fastapi", "uvicorn", "onnxruntime"),
    "our functions and int8 graphs in ONNX Runtime; uvicorn with one worker per core, uvloop and httptools",
)
FASTAPI_SAME = Peer(
    "FastAPI, our runtime",
    "fastapi_server",
    ("--runtime", "openvino"),
    ("fastapi", "uvicorn", "openvino"),
    "the same with the networks in our runtime, so that only the server differs",
)
LITSERVE = Peer(
    "LitServe, our runtime",
    "litserve_server",
    (),
    ("litserve", "openvino"),
    "our functions, graphs and runtime; one worker per core, batches of up to 8",
)
PEERS = (TEXTBOOK, TEXTBOOK_NLM, FASTAPI_ONNX, FASTAPI_SAME, LITSERVE)


def free_port() -> int:
    """Return a loopback port that nothing listens on at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


class PeerServer:
    """Runs a peer: ready inside the ``with`` block, stopped with all its processes after it.

    Raises (on entering):
        PeerError: the peer ended, or was not ready within ``timeout`` seconds.
    """

    def __init__(self, peer: Peer, repository: Path, timeout: float = 120.0, cuda: bool = False) -> None:
        """Choose a port; ``cuda`` asks the peer to run its networks on the GPU."""
        self.peer, self.port = peer, free_port()
        self._timeout = timeout
        self._command = [
            *(sys.executable, "-m", f"veridict.loadtests.bench.peers.{peer.module}"),
            *("--port", str(self.port), "--repository", str(repository)),
            *peer.arguments,
            *(["--cuda"] if cuda else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.seconds_to_ready = 0.0

    @property
    def pid(self) -> int:
        """Return the id of the peer's main process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> PeerServer:
        """Start the peer and wait until ``/health`` answers 200."""
        started = time.perf_counter()
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # makes a process group, so that its workers can be stopped with it
        )
        try:
            while not self._healthy():
                if self._process.poll() is not None:
                    raise PeerError(f"{self.peer.name} ended before it was ready:\n{self._tail()}")
                if time.perf_counter() - started > self._timeout:
                    raise PeerError(f"{self.peer.name} was not ready after {self._timeout:.0f} s:\n{self._tail()}")
                time.sleep(0.05)
        except BaseException:
            self._stop()
            raise
        self.seconds_to_ready = time.perf_counter() - started
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the peer."""
        self._stop()

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:].decode(errors="replace")

    def _stop(self) -> None:
        assert self._process is not None
        for number, timeout in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
        # Workers may outlive their parent for a moment: kill the rest of the group.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._log.close()

    @contextmanager
    def connect(self, data: bytes) -> Iterator[Call]:
        """Open a keep-alive connection and yield the call that judges ``data``.

        Raises (also when called):
            RejectedError: the peer is overloaded.
            PeerError: the peer gave no answer, or an unexpected status.
        """
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=120)

        def call() -> int:
            connection.request("POST", "/predict", body=data, headers={"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status in _OVERLOADED:
                raise RejectedError
            if answer.status != 200:
                raise PeerError(f"{self.peer.name} answered {answer.status}: {body[:300].decode(errors='replace')}")
            return 1

        try:
            yield call
        except (OSError, http.client.HTTPException) as error:
            raise PeerError(f"{self.peer.name} gave no answer ({type(error).__name__}: {error})") from error
        finally:
            connection.close()
