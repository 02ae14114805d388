"""The client without a server: inputs, retries, deadlines, errors, ordering; a transport of our own stands in."""

import ast
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import veridict.client as client_package
from veridict.client import (
    Answer,
    ClientConfig,
    DeadlineError,
    DetectorClient,
    InputError,
    InternalError,
    InvalidImageError,
    OverloadedError,
    ProtocolError,
    ServerError,
    UnavailableError,
    VeridictError,
)

DOCUMENT = {
    "schema": "veridict/1",
    "request_id": "r",
    "image": {"sha256": "0", "format": "JPEG", "width": 1, "height": 1, "bytes": 1},
    "verdict": "real",
    "fake_probability": 0.25,
    "confidence": "high",
    "category": {"label": "animal", "scores": {"animal": 1}},
    "clip": {"real": 0.7, "deepfake": 0.3},
    "faces": [{"box": [1, 2, 3, 4], "fake_probability": 0.5}],
    "forensics": {
        n: {"value": 1.5, "percentile": 50, "reading": "normal", "applicable": True, "why_not": ""}
        for n in ("ela", "blur", "noise")
    },
    "explanation": "Because",
    "evidence": [],
    "models": {"clip": "a", "face_cnn": "b", "calibration": "c"},
    "timings_ms": {"decode": 1},
}


class Scripted:
    """A transport that plays back answers and errors in order, then repeats the last."""

    def __init__(self, *script, pause=0.0):
        self.script = list(script)
        self.calls = []
        self.pause = pause
        self.active = self.most_active = 0
        self.lock = threading.Lock()

    def infer(self, data, request_id, timeout, headers):
        with self.lock:
            self.calls.append((data, request_id, timeout, headers))
            step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        time.sleep(self.pause)
        with self.lock:
            self.active -= 1
        if callable(step):
            step = step(data)
        if isinstance(step, Exception):
            raise step
        return Answer(json.dumps(step).encode())

    def ready(self, timeout):
        return True

    def close(self):
        self.closed = True


def make(transport, **settings):
    return DetectorClient(config=ClientConfig(backoff=0.001, **settings), transport=transport)


def encoded(image):
    """Return the bytes that the client sends for an image."""
    transport = Scripted(DOCUMENT)
    make(transport).detect(image)
    ((data, *_),) = transport.calls
    return data


def test_detect_returns_a_typed_verdict_and_passes_everything_on():
    transport = Scripted(DOCUMENT)
    with make(transport, deadline=3) as client:
        verdict = client.detect(b"bytes", request_id="mine", trace_context={"traceparent": "00-1"})
        assert client.ready()
    assert verdict.faces[0].box == (1, 2, 3, 4)
    assert verdict.category.scores == {"animal": 1.0}
    ((data, request_id, timeout, headers),) = transport.calls
    assert (data, request_id, headers) == (b"bytes", "mine", {"traceparent": "00-1"})
    assert 2.5 < timeout <= 3
    assert transport.closed


@pytest.mark.parametrize("error", [UnavailableError("gone"), OverloadedError("full")])
def test_retryable_errors_are_retried_until_the_attempts_end(error):
    transport = Scripted(error, error, DOCUMENT)
    assert make(transport).detect(b"x").verdict == "real"
    assert len({call[1] for call in transport.calls}) == 1  # one id over all attempts
    always = Scripted(error)
    with pytest.raises(type(error)):
        make(always, attempts=3).detect(b"x")
    assert len(always.calls) == 3


@pytest.mark.parametrize(
    "error",
    [InvalidImageError("bad", code="image.corrupt"), InternalError("x"), DeadlineError("late"), ProtocolError("?")],
)
def test_other_errors_are_not_retried(error):
    transport = Scripted(error)
    with pytest.raises(type(error)):
        make(transport).detect(b"x")
    assert len(transport.calls) == 1


def test_the_deadline_bounds_all_attempts():
    transport = Scripted(UnavailableError("gone"), pause=0.05)
    started = time.monotonic()
    with pytest.raises(UnavailableError):
        make(transport, deadline=0.2, attempts=1000).detect(b"x")
    assert time.monotonic() - started < 1.0
    with pytest.raises(DeadlineError):
        make(transport).detect(b"x", deadline=-1)


def test_detect_many_keeps_order_bounds_concurrency_and_isolates_errors():
    def answer(data):
        return InvalidImageError("bad", code="image.corrupt") if data == b"3" else DOCUMENT

    transport = Scripted(answer, pause=0.01)
    results = list(make(transport).detect_many([str(i).encode() for i in range(12)] + [Path("/none")], concurrency=3))
    assert [r.index for r in results] == list(range(13))
    assert [r.index for r in results if r.error] == [3, 12]
    assert isinstance(results[12].error, InputError)
    assert 1 < transport.most_active <= 3


def test_detect_many_draws_lazily():
    drawn = []

    def images():
        for i in range(100):
            drawn.append(i)
            yield b"x"

    results = make(Scripted(DOCUMENT)).detect_many(images(), concurrency=2)
    next(results)
    assert len(drawn) <= 5
    results.close()


def test_inputs_become_encoded_bytes(tmp_path, cat):
    path = tmp_path / "a.bin"
    path.write_bytes(b"raw")
    assert encoded(str(path)) == encoded(path) == encoded(bytearray(b"raw")) == b"raw"
    for value in (cat, Image.fromarray(cat)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(value)))), cat)
    assert Image.open(io.BytesIO(encoded(cat[:, :, 0]))).mode == "L"
    assert Image.open(io.BytesIO(encoded(Image.fromarray(cat).convert("CMYK")))).mode == "RGB"


@pytest.mark.parametrize(
    "bad",
    ["/no/such/file.jpg", 3, None, np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_unfit_inputs_raise_input_error(bad):
    transport = Scripted(DOCUMENT)
    with pytest.raises(InputError):
        make(transport).detect(bad)
    assert transport.calls == []


def test_the_error_tree_is_the_documented_one():
    assert issubclass(OverloadedError, ServerError)
    assert issubclass(UnavailableError, ServerError)
    assert issubclass(ServerError, VeridictError)
    assert not issubclass(InvalidImageError, ServerError)


def test_foreign_answers_are_protocol_errors():
    with pytest.raises(ProtocolError):
        make(Scripted({"schema": "other"})).detect(b"x")


@pytest.mark.parametrize("bad", [{"url": "http://h:1"}, {"deadline": 0}, {"attempts": 0}, {"concurrency": 0}])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match=r"url|deadline"):
        ClientConfig(**bad)


def test_url_overrides_the_configuration():
    client = DetectorClient("10.0.0.1:9", config=ClientConfig(deadline=7), transport=Scripted(DOCUMENT))
    assert (client.config.url, client.config.deadline) == ("10.0.0.1:9", 7)


def test_public_names_are_exactly_all():
    tree = ast.parse(Path(client_package.__file__).read_text())
    imported = {a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert imported == set(client_package.__all__)
    assert list(client_package.__all__) == sorted(client_package.__all__)


def test_the_client_imports_no_image_or_server_package():
    import subprocess
    import sys

    heavy = ("cv2", "torch", "onnxruntime", "pytriton")
    code = f"import sys, veridict.client; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
