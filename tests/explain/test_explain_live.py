"""Explanations against the real server: the command, the served scorer, a real worker on the embedded Redis."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.command import main
from veridict.explain.attribution import Budget, Cancellation
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.duty_cycle import DutyCycle, DutyCycleLimiter, VerdictCounter
from veridict.explain.methods import run_method
from veridict.explain.models import Models
from veridict.explain.served import FaceScorer
from veridict.explain.subject import read_subject
from veridict.export.models.face_cnn import FaceCNN
from veridict.forensics.signature import FACE_CNN_EXPLAIN

from .conftest import wait_until

pytestmark = [pytest.mark.live, pytest.mark.export]


@pytest.fixture
def face_file(tmp_path, encode, astronaut):
    path = tmp_path / "face.jpg"
    path.write_bytes(encode(astronaut, quality=92))
    return path


@pytest.mark.slow
def test_the_served_scores_are_the_held_models(triton, face_file):
    subject = read_subject(face_file.read_bytes())
    models = Models(server=ClientConfig(triton.url))
    served = models.scorer(np.stack([subject.crop] * 20))  # more than a request holds
    with torch.inference_mode():
        held = models.face(torch.from_numpy(subject.crop)[None])[0, 0].item()
    assert served.shape == (20,)
    assert np.allclose(served, held, atol=0.05)
    assert FaceScorer(ClientConfig(triton.url), FACE_CNN_EXPLAIN)(np.zeros((0, 224, 224, 3), np.uint8)).shape == (0,)


@pytest.mark.slow
def test_gradients_work_after_the_server_was_asked_first(triton, face_file):
    models = Models(server=ClientConfig(triton.url))
    assert models.scorer is not None  # the comparison with the held network has loaded that network
    result = run_method("saliency", read_subject(face_file.read_bytes()), models, Budget())
    assert result.values.max() > 0


@pytest.mark.slow
def test_shap_adds_up_on_the_served_network(triton, face_file):
    subject = read_subject(face_file.read_bytes())
    result = run_method("shap", subject, Models(server=ClientConfig(triton.url)), Budget(samples=60))
    total = result.quality["base_value"] + float(result.values.astype(np.float64).sum())
    assert total == pytest.approx(result.score, abs=1e-3)


def test_a_server_with_other_weights_is_refused(triton):
    torch.manual_seed(0)
    with pytest.raises(ExplainError) as caught:
        _ = Models(server=ClientConfig(triton.url), face=FaceCNN()).scorer
    assert caught.value.code == "explain.model_mismatch"


@pytest.mark.slow
def test_networks_of_another_repository_than_the_served_one_are_refused(triton, other_repository):
    """Gradient methods need no server, but where there is one they must explain what it serves."""
    models = Models(server=ClientConfig(triton.url), repository=other_repository)
    with pytest.raises(ExplainError) as caught:
        _ = models.face
    assert caught.value.code == "explain.model_mismatch"
    assert Models(server=ClientConfig(triton.url)).clip is not None, "the served image encoder is the bundled one"
    unreachable = Models(server=ClientConfig("127.0.0.1:1"), repository=other_repository)
    assert unreachable.face is not None


def test_the_default_face_is_the_verdicts(triton, face_file, three_faces, encode):
    data = encode(three_faces)
    with DetectorClient(triton.url) as client:
        verdict = client.detect(data)
    worst = max(range(3), key=lambda i: verdict.faces[i].fake_probability)
    subject = read_subject(data, score_faces=Models(server=ClientConfig(triton.url)).score_faces)
    assert subject.face_index == worst
    assert tuple(subject.box) == verdict.faces[worst].box


@pytest.mark.slow
def test_explanations_wait_while_the_server_gives_verdicts(triton, face_file):
    subject, models = read_subject(face_file.read_bytes()), Models()
    run_method("saliency", subject, models, Budget())  # loads the network, so that loading is not timed
    counter, duty_cycle, pauses, done = VerdictCounter(ClientConfig(triton.url)), DutyCycle(0.2), [], threading.Event()
    limiter = DutyCycleLimiter(duty_cycle, counter, on_pause=pauses.append)
    before = counter()

    def ask_on():
        with DetectorClient(triton.url) as client:
            while not done.is_set():
                client.detect(face_file)

    limiter.start()
    with ThreadPoolExecutor(1) as pool:
        try:
            asking = pool.submit(ask_on)
            wait_until(lambda: duty_cycle.limiting)
            limiter.begin()
            started = time.perf_counter()
            result = run_method("saliency", subject, models, Budget(), Cancellation(60.0, limiter))
            passed = time.perf_counter() - started
        finally:
            done.set()
        asking.result()
    assert counter() > before
    assert sum(pauses) > 0.3  # the first slice alone makes 0.4
    assert 0 < result.seconds <= passed - sum(pauses) + 0.01
    wait_until(lambda: not duty_cycle.limiting, 5)
    limiter.stop()


def test_the_command_writes_maps_arrays_and_report(triton, face_file, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--steps", "16", "--samples", "40", "--url", triton.url, "-o", str(out)]
    assert main(["explain", str(face_file), "--methods", "saliency,grad_cam,lime,ela", *options]) == 0
    for name in ("saliency", "grad_cam", "lime", "ela"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        document = json.loads((out / f"{name}.json").read_text())
        assert np.load(out / f"{name}.npz")["values"].shape == tuple(document["shape"])
        assert document["seconds"] > 0
    html = (out / "report.html").read_text()
    assert "No verdict" not in html
    assert "threshold" in html
    assert "report.html" in capsys.readouterr().out


def test_the_command_without_a_server_still_writes_what_needs_none(face_file, tmp_path, capsys, encode, coffee):
    out = tmp_path / "out"
    options = ["--url", "127.0.0.1:9", "-o", str(out), "--samples", "20"]
    assert main(["explain", str(face_file), "--methods", "noise,lime", *options]) == 1
    assert "explain.model_unavailable" in capsys.readouterr().err
    assert (out / "noise.png").exists()
    assert "No verdict" in (out / "report.html").read_text()
    (tmp_path / "coffee.png").write_bytes(encode(coffee, "PNG"))
    assert main(["explain", str(tmp_path / "coffee.png"), "--methods", "saliency", *options]) == 1
    assert "explain.no_face" in capsys.readouterr().err
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    assert main(["explain", str(tmp_path / "bad.jpg"), "--methods", "ela", *options]) == 1
    assert "image.unsupported_format" in capsys.readouterr().err


def test_usage_errors(face_file, tmp_path, capsys):
    for bad in (
        ["--methods", "magic"],
        ["--no-wait"],
    ):
        assert main(["explain", str(face_file), *bad]) == 2
    for bad in (["--steps", "1"], ["--face", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            main(["explain", str(face_file), *bad])
    assert main(["explain", str(tmp_path / "none.jpg")]) == 2
    assert "explain.unknown_method" in capsys.readouterr().err
    options = ["--queue", "--state", str(tmp_path / "s"), "--methods", "ela"]
    assert main(["explain", str(face_file), *options]) == 1
    assert "start a worker first" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_on_the_embedded_redis_answers_the_command(triton, face_file, tmp_path, capsys):
    state = tmp_path / "s"
    command = [
        sys.executable,
        "-m",
        "veridict.deploy.command",
        "worker",
        "--state",
        str(state),
        "--port",
        "0",
        "--nice",
        "0",
    ]
    log = (tmp_path / "worker.log").open("w+")
    with subprocess.Popen([*command, "--url", triton.url], stdout=log, stderr=log) as worker:
        try:
            wait_until(lambda: "ready:" in (tmp_path / "worker.log").read_text(), 30)
            options = ["--state", str(state), "--url", triton.url, "-o", str(tmp_path / "out"), "--samples", "40"]
            asked = ["explain", str(face_file), "--methods", "saliency,lime,ela", "--queue", *options]
            assert main(asked) == 0, capsys.readouterr()
            assert (tmp_path / "out" / "lime.png").exists()
            assert main([*asked, "--no-wait", "--batch-priority"]) == 0
            jobs = json.loads(capsys.readouterr().out.splitlines()[-1])["jobs"]
            assert main(["jobs", "status", jobs["lime"], "--state", str(state)]) == 0
            assert json.loads(capsys.readouterr().out)["state"] == "done"
        finally:
            worker.terminate()
            assert worker.wait(30) == 0
    log.close()
    assert not (state / "redis" / "redis.sock").exists()  # the worker stopped its Redis
