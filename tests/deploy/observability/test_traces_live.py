"""One request as one tree of spans, and the logs of server and worker, from the real commands."""

import json
import os
import subprocess
import sys
import time

import pytest

from veridict.client import DetectorClient, InvalidImageError

pytestmark = [pytest.mark.slow, pytest.mark.live]

#: What a platform does with an upload, in a process of its own: the tracer provider of a process is set once.
UPLOAD = """
import sys
from opentelemetry import trace
from veridict.client import DetectorClient
from veridict.deploy.tracing import set_up_tracing
from veridict.explain.jobs.client import ExplanationClient

set_up_tracing("platform", sys.argv[1])
with trace.get_tracer("platform").start_as_current_span("upload"):
    with DetectorClient(sys.argv[2]) as detector:
        print(detector.detect(sys.argv[3]).request_id)
    with ExplanationClient() as explanations:
        jobs = explanations.submit(sys.argv[3], ["sharpness"]).jobs
        explanations.wait(jobs["sharpness"], 60)
trace.get_tracer_provider().shutdown()
"""


def tree(spans, parent):
    """Return what is below a span as nested dictionaries by service and name."""
    children = [span for span in spans if span.parent == parent]
    return {f"{span.service}:{span.name}": tree(spans, span.id) for span in children}


def test_one_request_is_one_tree_from_client_to_worker(service, tmp_path, encode, cat):
    image = tmp_path / "cat.jpg"
    image.write_bytes(encode(cat))
    environment = {**os.environ, "VERIDICT_STATE": str(service.state)}
    arguments = [sys.executable, "-c", UPLOAD, service.spans.url, service.url, str(image)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (root,) = service.spans.wait(1, lambda span: span.name == "upload")
    one = service.spans.wait(9, lambda span: span.trace == root.trace)
    computed = {"veridict-triton:compute": {}}
    assert tree(one, "") == {
        "platform:upload": {
            "platform:veridict.detect": {
                "veridict-triton:InferRequest": {
                    "veridict-triton:detector": {
                        "veridict-triton:preprocess": computed,
                        "veridict-triton:fusion": computed,
                    }
                }
            },
            "veridict-worker:veridict.explain": {},
        }
    }
    assert len({span.id for span in one}) == len(one)


def traces_of_triton(service):
    return {span.trace for span in service.spans.spans if span.service == "veridict-triton"}


def test_requests_of_clients_that_do_not_trace_are_not_traced(service, encode, cat):
    before = traces_of_triton(service)
    with DetectorClient(service.url) as client:
        client.detect(encode(cat))
    time.sleep(2)
    assert traces_of_triton(service) == before


def test_logs_are_json_lines_without_images(service, encode, cat):
    marker = b"bytes-of-an-uploaded-image"
    with DetectorClient(service.url) as client:
        client.detect(encode(cat) + marker)
        with pytest.raises(InvalidImageError):
            client.detect(marker)
    for command in (service.server, service.worker):
        text = command.log.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines
        assert marker.decode() not in text
        assert max(map(len, text.splitlines())) < 5000
        for line in lines:
            assert {"time", "level", "logger", "message"} <= set(line)
    worked = [json.loads(line) for line in service.worker.log.read_text().splitlines()]
    assert {line["method"] for line in worked if "job" in line} >= {"sharpness"}
