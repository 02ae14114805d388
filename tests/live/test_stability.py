"""A served policy that has every image scored again from re-encodings."""

import json
import shutil

import pytest

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.manifest import default_repository, update_manifest
from veridict.forensics.alterations import ALTERATIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def careful(tmp_path_factory):
    """A client of a server whose policy checks every image."""
    target = tmp_path_factory.mktemp("careful") / "repository"
    repository = shutil.copytree(default_repository(), target, ignore=shutil.ignore_patterns("__pycache__"))
    path = repository / "fusion/1/policy.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "stability": {"when": "always", "margin": 3.0}}))
    update_manifest(repository)
    settings = ServerSettings(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    with TritonServer(settings) as server, DetectorClient(config=ClientConfig(server.url, deadline=60.0)) as client:
        yield client


def test_every_image_is_scored_from_its_re_encodings(careful, detector, astronaut, coffee, encode):
    images = [encode(astronaut), encode(coffee, "PNG"), encode(coffee)]
    answers = [result.verdict for result in careful.detect_many(images)]
    for image, answer in zip(images, answers, strict=True):
        plain = detector.detect(image)
        assert plain.stability is None
        assert list(answer.stability.probabilities) == list(ALTERATIONS)
        # The re-encodings are scored beside the image: its own figures stay the same.
        assert answer.fake_probability == plain.fake_probability
        assert ("unstable" in answer.doubts) == bool(answer.stability.flips)
