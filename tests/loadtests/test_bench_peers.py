"""The peers are real servers that give real answers, and are gone afterwards."""

import dataclasses
import http.client
import json

import numpy as np
import psutil
import pytest

from veridict.deploy.manifest import default_repository
from veridict.export.pipeline import InProcessDetector
from veridict.loadtests.bench import parts, peers
from veridict.loadtests.bench.peers import textbook
from veridict.loadtests.bench.report import Report
from veridict.loadtests.sample_images import encode_jpeg


@pytest.fixture
def image(astronaut):
    return encode_jpeg(astronaut)


def start(peer):
    if missing := peer.missing_packages():
        pytest.skip(f"not installed: {', '.join(missing)} (pip install 'veridict[bench]')")
    return peers.PeerServer(peer, default_repository())


def ask(server, data):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", "/predict", body=data, headers={"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.parametrize("peer", [peers.FASTAPI_ONNX, peers.LITSERVE], ids=lambda peer: peer.module)
def test_peers_with_our_functions_give_our_answer(peer, image, networks):
    with start(peer) as server:
        status, body = ask(server, image)
        members = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        with server.connect(image) as call:
            assert call() == 1
    assert status == 200
    (wanted,) = InProcessDetector(default_repository(), networks=networks).detect([image])
    # ONNX Runtime computes in float32 what OpenVINO computes in bfloat16 where the processor has it.
    assert json.loads(body)["fake_probability"] == pytest.approx(wanted.fake_probability, abs=0.05)
    _, alive = psutil.wait_procs(members, timeout=10)
    assert not alive


@pytest.mark.slow
@pytest.mark.export
def test_the_textbook_pipeline_answers_and_finds_the_face(image):
    with start(peers.TEXTBOOK) as server:
        status, body = ask(server, image)
        with (
            pytest.raises(peers.PeerError, match="answered 500"),
            server.connect(b"no image") as call,
        ):
            call()
    answer = json.loads(body)
    assert status == 200
    assert answer["verdict"] in ("real", "deepfake")
    assert len(answer["faces"]) == 1
    assert {"decode", "ela", "blur", "noise", "find_faces", "face_cnn", "clip"} == set(answer["timings_ms"])


def test_a_peer_that_cannot_start_says_why():
    broken = dataclasses.replace(peers.TEXTBOOK, arguments=("--residual", "nonsense"))
    with pytest.raises(peers.PeerError, match="invalid choice"), peers.PeerServer(broken, default_repository()):
        pass


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(monkeypatch):
    absent = dataclasses.replace(peers.LITSERVE, needs=("no_such_package",))
    monkeypatch.setattr(parts, "choose_peers", lambda gpu: [absent])
    arguments = type("Arguments", (), {"profile": "cpu", "repository": default_repository()})
    pipelines, notes = parts.start_peers(arguments, Report("x"), None)
    assert pipelines == []
    assert "LitServe, our runtime: left out, not installed: no_such_package" in notes[0]


def test_the_textbook_measurements_on_images_with_known_values():
    flat = np.full((64, 64), 120, np.uint8)
    assert textbook.laplacian_variance(flat) == 0
    assert textbook.residual_median(flat) == 0
    assert textbook.residual_nlm(flat) == 0
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 100
    # Every inner pixel's Laplacian is +400 or -400, in equal numbers.
    assert textbook.laplacian_variance(checks.astype(np.uint8)) == 160000
    assert textbook.error_level(textbook.decode(encode_jpeg(np.full((64, 64, 3), 120, np.uint8)))) == 0
