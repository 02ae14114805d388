"""A real OTLP receiver, and a server and a worker as their commands start them, with traces and JSON logs."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

VERIDICT = [sys.executable, "-m", "veridict.deploy.command"]


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str


class OtlpReceiver:
    """Takes spans over HTTP, as protobuf (OpenTelemetry's Python) or as JSON (Triton)."""

    def __init__(self):
        self.spans = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                read = from_json if self.headers["Content-Type"] == "application/json" else from_protobuf
                receiver.spans += read(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self, count, wanted, seconds=20.0):
        """Return the spans that are wanted, a second after so many have come or when the time is over.

        Other tests share the receiver, and each sender keeps its spans for up to five seconds: that a span of some name
        has come says nothing about one trace.
        """
        ends = time.monotonic() + seconds
        while sum(map(wanted, list(self.spans))) < count and time.monotonic() < ends:
            time.sleep(0.05)
        time.sleep(1)
        return [span for span in self.spans if wanted(span)]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def from_json(body):
    """Read OTLP's JSON form: ids are hexadecimal."""
    for resource in json.loads(body)["resourceSpans"]:
        attributes = {a["key"]: a["value"] for a in resource["resource"]["attributes"]}
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                parent = span.get("parentSpanId", "")
                service = attributes["service.name"]["stringValue"]
                yield Span(service, span["name"], span["traceId"], span["spanId"], parent)


def from_protobuf(body):
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                yield Span(attributes["service.name"], span.name, *ids)


@dataclass
class Command:
    """A running ``veridict`` command: its line on standard output that says ready, and its log."""

    process: subprocess.Popen
    log: Path
    output: list[str] = field(default_factory=list)

    def wait_for(self, word):
        """Return the first line of the output that has this word."""
        while not any(word in line for line in self.output):
            line = self.process.stdout.readline()
            assert line, self.log.read_text()[-2000:]
            self.output.append(line)
        return next(line for line in self.output if word in line)

    def stop(self):
        self.process.terminate()
        self.process.wait(120)
        self.process.stdout.close()


def start(log, *arguments):
    with log.open("w") as file:
        process = subprocess.Popen(
            [*VERIDICT, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return Command(process, log)


@dataclass(frozen=True)
class Service:
    """One detector and one worker that run, the receiver of their spans, and where everything is."""

    spans: OtlpReceiver
    server: Command
    worker: Command
    url: str
    metrics: dict[str, str]
    state: Path

    def scrape(self, job):
        with urllib.request.urlopen(self.metrics[job], timeout=10) as response:
            return response.read().decode()


@pytest.fixture(scope="package")
def service(small_repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    spans = OtlpReceiver()
    common = ["--otlp", spans.url, "--log-format", "json"]
    ports = ["--grpc-port", 0, "--http-port", 0, "--metrics-port", 0]
    served = ["--repository", small_repository, "--no-standby", "--ready-timeout", 400]
    server = start(folder / "server.log", "serve", *ports, *common, *served)
    try:
        url = server.wait_for("ready:").split()[2].rstrip(",")
        metrics = server.wait_for("metrics").split()[1].rstrip(";")
        state = folder / "state"
        worker = start(folder / "worker.log", "worker", "--url", url, "--state", state, "--port", 0, *common)
        try:
            scraped = worker.wait_for("ready:").split()[-1]
            yield Service(spans, server, worker, url, {"veridict-triton": metrics, "veridict-worker": scraped}, state)
        finally:
            worker.stop()
    finally:
        server.stop()
        spans.close()
