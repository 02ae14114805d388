"""Provenance in the answers of a real server, with and without a trust list."""

import shutil

import pytest

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import LaunchError, ServerSettings, TritonServer
from veridict.deploy.manifest import update_manifest

from .conftest import created, sign, with_text

AI = "trainedAlgorithmicMedia"


@pytest.mark.live
def test_answers_say_where_a_file_comes_from(detector, chain, encode, cat):
    plain = detector.detect(encode(cat))
    assert plain.provenance.status == "none"
    assert "proves nothing" in plain.provenance.text
    assert not plain.provenance.decides
    signed = detector.detect(sign(encode(cat), chain, [created(AI)]))
    assert (signed.verdict, signed.provenance.status, signed.provenance.decides) == ("deepfake", "untrusted", True)
    assert signed.explanation.startswith("Content credentials signed in the name of Example Pictures")
    assert signed.fake_probability >= signed.threshold
    written = detector.detect(with_text(encode(cat, "PNG"), "parameters", "a cat\nSteps: 20, Sampler: Euler a"))
    assert (written.verdict, written.provenance.guarantee) == ("deepfake", "metadata")
    assert written.provenance.generator == "Stable Diffusion web UI"


@pytest.mark.slow
def test_a_server_trusts_whom_its_trust_list_names(small_repository, tmp_path, chain, encode, cat):
    repository = shutil.copytree(small_repository, tmp_path / "repository")
    configuration = repository / "preprocess" / "config.pbtxt"
    before = 'key: "trust_list"\n  value { string_value: "" }'
    assert before in configuration.read_text()
    configuration.write_text(configuration.read_text().replace(before, before.replace('""', '"trust_list.pem"')))
    settings = ServerSettings(repository, grpc_port=0, http_port=0, metrics_port=0)
    update_manifest(repository)
    with pytest.raises(LaunchError, match=r"trust_list\.pem"), TritonServer(settings):
        pass
    (repository / "preprocess" / "1" / "trust_list.pem").write_text(chain.root)
    update_manifest(repository)
    with TritonServer(settings) as server, DetectorClient(config=ClientConfig(server.url, deadline=60.0)) as client:
        verdict = client.detect(sign(encode(cat), chain, [created(AI)]))
    assert (verdict.provenance.status, verdict.provenance.guarantee) == ("trusted", "trusted")
    assert (verdict.verdict, verdict.confidence, verdict.doubts) == ("deepfake", "high", ())
