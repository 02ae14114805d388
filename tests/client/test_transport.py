"""The client's gRPC transport: arguments, statuses and deadlines, without a Veridict server."""

import asyncio
import socket
import time
from pathlib import Path

import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from veridict.client import (
    AsyncDetectorClient,
    ClientConfig,
    DeadlineError,
    DetectorClient,
    InternalError,
    InvalidImageError,
    OverloadedError,
    ProtocolError,
    Tls,
    UnavailableError,
    VeridictError,
)


class FailingTriton:
    """Replaces tritonclient's client: keeps the arguments it gets and answers every call with ``error``."""

    opened, called = [], []
    error = InferenceServerException("failed", "StatusCode.INTERNAL")

    def __init__(self, url, **arguments):
        self.opened.append((url, arguments))

    def async_infer(self, callback, **arguments):
        self.called.append(arguments)
        callback(None, self.error)

    def close(self):
        pass


@pytest.fixture
def failing_triton(monkeypatch):
    monkeypatch.setattr(triton_grpc, "InferenceServerClient", FailingTriton)
    monkeypatch.setattr(FailingTriton, "opened", [])
    monkeypatch.setattr(FailingTriton, "called", [])
    return FailingTriton


@pytest.mark.parametrize(
    ("status", "message", "kind", "code"),
    [
        (
            "StatusCode.INVALID_ARGUMENT",
            "in ensemble 'detector', [image.corrupt] the file",
            InvalidImageError,
            "image.corrupt",
        ),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", OverloadedError, "server.overloaded"),
        ("StatusCode.UNAVAILABLE", "in ensemble, [server.overloaded] full", OverloadedError, "server.overloaded"),
        ("StatusCode.UNAVAILABLE", "in ensemble, [server.deadline] waited", DeadlineError, "server.deadline"),
        ("StatusCode.RESOURCE_EXHAUSTED", "big", OverloadedError, "server.overloaded"),
        ("StatusCode.UNAVAILABLE", "failed to connect", UnavailableError, "server.unavailable"),
        ("StatusCode.UNAVAILABLE", "[server.unavailable] stopping", UnavailableError, "server.unavailable"),
        ("StatusCode.NOT_FOUND", "'detector' has no available versions", UnavailableError, "server.unavailable"),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineError, "server.deadline"),
        ("StatusCode.INTERNAL", "in ensemble, [server.internal] fusion failed", InternalError, "server.internal"),
        ("StatusCode.NOT_FOUND", "unknown model", ProtocolError, "client.protocol"),
        ("", "", InternalError, "server.internal"),
    ],
)
def test_statuses_become_typed_errors(failing_triton, monkeypatch, status, message, kind, code):
    monkeypatch.setattr(failing_triton, "error", InferenceServerException(message, status or None))
    with DetectorClient(config=ClientConfig(attempts=1)) as client, pytest.raises(VeridictError) as caught:
        client.detect(b"x", request_id="id")
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.request_id) == (code, "id")


def test_tls_and_request_arguments(failing_triton):
    tls = Tls(Path("ca.pem"), Path("c.pem"), Path("k.pem"))
    for config in (ClientConfig(), ClientConfig("host:1", tls=tls)):
        with DetectorClient(config=config) as client, pytest.raises(InternalError):
            client.detect(b"x", request_id="id", deadline=1.5)
    (_, plain), (url, secured) = failing_triton.opened
    options = dict(plain.pop("channel_args"))
    assert secured.pop("channel_args") == list(options.items())
    assert options["grpc.keepalive_time_ms"] == 20_000
    assert (url, plain) == ("host:1", {})
    assert secured == {"ssl": True, "root_certificates": "ca.pem", "private_key": "k.pem", "certificate_chain": "c.pem"}
    arguments = failing_triton.called[0]
    assert 1_400_000 < arguments["timeout"] <= 1_425_000  # microseconds: a twentieth less than what is left
    assert arguments["request_id"] == "id"
    assert arguments["client_timeout"] > 2.5  # the caller leaves at its deadline; the call itself is not cancelled then


@pytest.fixture
def silent_server():
    """Yield the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_never_answers_costs_the_deadline_and_no_more(silent_server):
    config = ClientConfig(silent_server, deadline=0.2)

    async def judge():
        async with AsyncDetectorClient(config=config) as client:
            with pytest.raises(DeadlineError):
                await client.detect(b"x")
            return [r.error.code async for r in client.detect_many([b"x"] * 3, concurrency=3)]

    started = time.monotonic()
    with DetectorClient(config=config) as client:
        with pytest.raises(DeadlineError):
            client.detect(b"x")
        assert [r.error.code for r in client.detect_many([b"x"] * 3, concurrency=3)] == ["server.deadline"] * 3
    assert asyncio.run(judge()) == ["server.deadline"] * 3
    # Closing each client waits two seconds for its late calls: far less than gRPC's own deadline, ten seconds later.
    assert time.monotonic() - started < 2 * (2 + 2)
