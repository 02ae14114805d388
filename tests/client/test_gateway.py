"""The HTTP gateway as callers see it: a real ``veridict gateway`` process, and a real detector where one is needed."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys

import pytest
import requests

from veridict.client import (
    InvalidImageError,
    OverloadedError,
    ServerError,
    UnavailableError,
    UnknownPolicyError,
    Verdict,
    VeridictError,
)
from veridict.client.gateway import http_status
from veridict.deploy.command import main

LIMIT = 300_000


@contextlib.contextmanager
def gateway(url, *options):
    command = [sys.executable, "-m", "veridict.deploy.command", "gateway", "--port", "0", "--url", url, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://[\d.]+:\d+", process.stdout.readline())[0]
        for _ in range(600):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(address, timeout=60)
                break
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def nobody():
    """A port of this machine at which no detector listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with gateway(f"127.0.0.1:{port}", "--deadline", "2", "--max-bytes", str(LIMIT)) as address:
        yield address


BAD_REQUESTS = {
    "an empty body": ({"data": b""}, 400, "client.input"),
    "another field": ({"files": {"picture": b"x"}}, 400, "client.input"),
    "a text in place of a file": ({"data": {"media": "x"}, "files": {"other": b"x"}}, 400, "client.input"),
    "an empty file": ({"files": {"media": ("a.jpg", b"")}}, 400, "client.input"),
    "two files": ({"files": [("media", b"x"), ("media", b"y")]}, 400, "client.input"),
    "no boundary": ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "client.input"),
    "a broken form": (
        {"data": b"--b\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        400,
        "client.input",
    ),
    "a body over the limit": ({"data": b"x" * (LIMIT + 1)}, 413, "image.too_large"),
    "a file over the limit": ({"files": {"media": ("a.jpg", b"x" * (LIMIT + 1))}}, 413, "image.too_large"),
    "a form far over the limit": ({"files": {"media": ("a.jpg", b"x" * LIMIT * 3)}}, 413, "image.too_large"),
    "a policy without a name": ({"data": b"x", "params": {"policy": ""}}, 400, "server.unknown_policy"),
    "an unknown format": ({"data": b"x", "params": {"format": "xml"}}, 400, "client.input"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("request_", "status", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_answered_with_its_code(nobody, request_, status, code):
    answer = requests.post(f"{nobody}/v1/detect", timeout=60, **request_)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.slow
def test_without_a_detector_the_gateway_says_so(nobody):
    assert requests.get(f"{nobody}/healthz", timeout=60).status_code == 503
    answer = requests.post(f"{nobody}/v1/detect", data=b"x", timeout=60)
    assert answer.status_code in (503, 504)
    assert answer.json()["error"]["code"] in ("server.unavailable", "server.deadline")


@pytest.mark.slow
def test_unknown_paths_and_methods_get_json(nobody):
    for method, path, status in (("GET", "/", 404), ("GET", "/v1/detect", 405), ("PUT", "/healthz", 405)):
        answer = requests.request(method, nobody + path, timeout=60)
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == "gateway.request"


@pytest.mark.slow
def test_uploads_are_judged_as_through_grpc(triton, detector, astronaut, encode):
    data = encode(astronaut)
    expected = detector.detect(data)
    with gateway(triton.url, "--max-bytes", str(20 * 1024 * 1024)) as address:
        assert requests.get(f"{address}/healthz", timeout=60).status_code == 200
        form = requests.post(
            f"{address}/v1/detect",
            files={"media": ("a.jpg", data)},
            data={"api_user": "me", "models": "genai"},
            headers={"X-Request-Id": "upload-7"},
            timeout=120,
        )
        body = requests.post(f"{address}/v1/detect?format=sightengine", data=data, timeout=120)
        # Over a megabyte, form parsers write an upload to disk unless they are told not to.
        large = requests.post(f"{address}/v1/detect", files={"media": encode(astronaut, "PNG") * 4}, timeout=120)
        refused = requests.post(f"{address}/v1/detect?format=hive", data=b"no image", timeout=120)
    assert form.status_code == 200
    verdict = Verdict.from_json(form.text)
    assert verdict.request_id == "upload-7"
    assert form.json()["path"] == "a.jpg"
    assert (verdict.fake_probability, verdict.image) == (expected.fake_probability, expected.image)
    assert body.json()["status"] == "success"
    assert large.status_code == 200
    assert refused.status_code == 422
    assert "image." in json.dumps(refused.json())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidImageError("", code="image.truncated"), 422),
        (InvalidImageError("", code="image.too_large"), 413),
        (UnknownPolicyError(""), 400),
        (OverloadedError(""), 429),
        (UnavailableError(""), 503),
        (ServerError(""), 500),
        (VeridictError(""), 500),
    ],
)
def test_every_error_has_its_http_status(error, status):
    assert http_status(error) == status


def test_a_taken_port_is_a_usage_error(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert main(["gateway", "--port", str(server.getsockname()[1])]) == 2
    assert "is taken" in capsys.readouterr().err
