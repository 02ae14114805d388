"""Replicas for the client's tests: real gRPC servers that answer like Triton, behind connections that can be cut."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .test_unit import DOCUMENT


class FakeReplica(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One replica; ``behave`` is called with each request's number and may sleep, or return a status and a message."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, credentials: grpc.ServerCredentials | None = None):
        self.behave: Callable[[int], tuple[grpc.StatusCode, str] | None] = lambda number: None
        self.ready = True
        self.lock = threading.Lock()
        self.answered = self.received = self.cancelled = 0
        self.peers: set[str] = set()
        self.server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        add = self.server.add_insecure_port
        self.port = add(f"{host}:{port}") if credentials is None else self.server.add_secure_port(host, credentials)
        self.address = f"{host}:{self.port}"
        self.server.start()

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=self.ready)

    def ModelInfer(self, request, context):
        if request.raw_input_contents[0] == bytes(4):  # the empty image of a readiness check
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "[image.empty] no bytes")
        context.add_callback(lambda: self.count_cancelled(context))
        with self.lock:
            self.received += 1
            number = self.received
            self.peers.add(context.peer())
        refusal = self.behave(number)
        if refusal:
            context.abort(*refusal)
        document = json.dumps(DOCUMENT).encode()
        answer = service_pb2.ModelInferResponse(model_name="detector")
        answer.outputs.add(name="VERDICT", datatype="BYTES", shape=[1, 1])
        answer.raw_output_contents.append(len(document).to_bytes(4, "little") + document)
        with self.lock:
            self.answered += 1
        return answer

    def count_cancelled(self, context):
        with self.lock:
            self.cancelled += context.code() is grpc.StatusCode.CANCELLED


class Wire:
    """Forwards connections to a server; can be cut like a killed process, or fall silent like a lost machine."""

    def __init__(self, target: str):
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.silent, self.stopped = False, threading.Event()
        self.pairs: dict[socket.socket, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stopped.is_set():
            for key, _ in self.selector.select(0.02):
                if self.silent:
                    time.sleep(0.02)  # nothing is read, nothing is closed
                elif key.fileobj is self.listener:
                    self.connect()
                else:
                    self.forward(key.fileobj)
        for connection in self.pairs:
            # Closing with unread data and no lingering sends RST, as the kernel does for a killed process.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        self.listener.close()
        self.selector.close()

    def connect(self):
        client = self.listener.accept()[0]
        server = socket.create_connection(self.target)
        for one, other in ((client, server), (server, client)):
            self.pairs[one] = other
            self.selector.register(one, selectors.EVENT_READ)

    def forward(self, source):
        try:
            data = source.recv(65536)
            if data:
                self.pairs[source].sendall(data)
                return
        except OSError:
            pass
        for end in (source, self.pairs[source]):
            if end in self.pairs:
                self.selector.unregister(end)
        for end in (source, self.pairs.pop(source)):
            self.pairs.pop(end, None)
            end.close()

    def cut(self):
        """End all connections and refuse new ones."""
        self.stopped.set()
        if threading.current_thread() is not self.thread:
            self.thread.join()


@pytest.fixture
def replica() -> Iterator[Callable[..., FakeReplica]]:
    started: list[FakeReplica] = []

    def start(*arguments: object, **options: object) -> FakeReplica:
        started.append(FakeReplica(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.server.stop(0).wait()


@pytest.fixture
def wire() -> Iterator[Callable[[str], Wire]]:
    started: list[Wire] = []

    def start(target: str) -> Wire:
        started.append(Wire(target))
        return started[-1]

    yield start
    for one in started:
        one.cut()
