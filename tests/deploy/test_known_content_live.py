"""Known content through a real server: a bank that appears, one that becomes bad, the metrics, and the classifier."""

import re
import time
import urllib.request

import pytest

from veridict.client import ClientConfig, DetectorClient
from veridict.client.classifier import VeridictClassifier
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.forensics.known_content.bank_files import Entry, write_csv

pytestmark = pytest.mark.slow
PATIENCE = 90.0


class Served:
    """A server with banks, a client, and what the server logged about its banks."""

    def __init__(self, server, client, folder, log):
        self.server, self.client, self.folder, self.log = server, client, folder, log

    def detect_until(self, data, holds):
        """Return the first verdict for which ``holds`` is true; fails after a while without one."""
        ends = time.monotonic() + PATIENCE
        while not holds(verdict := self.client.detect(data)):
            assert time.monotonic() < ends, verdict.known_content
        return verdict

    def metrics_until(self, holds):
        ends = time.monotonic() + PATIENCE
        while True:
            with urllib.request.urlopen(self.server.metrics_url, timeout=10) as answer:
                text = answer.read().decode()
            lines = re.findall(r"^veridict_known_content_(\w+)\{(?:result=\"(\w+)\")?.*\} (\S+)$", text, re.MULTILINE)
            found = {f"{name} {result}".strip(): float(value) for name, result, value in lines}
            if holds(found):
                return found
            assert time.monotonic() < ends, found
            time.sleep(0.2)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder, log = tmp_path_factory.mktemp("known"), []
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0, known_content=folder)
    with (
        TritonServer(settings, log.append) as server,
        DetectorClient(config=ClientConfig(server.url, deadline=60.0)) as client,
    ):
        yield Served(server, client, folder, log)


def test_a_bank_that_appears_decides_and_a_bad_one_leaves_it_in_force(served, encode, astronaut, cat):
    image, other = encode(astronaut), encode(cat, quality=60)
    before = served.client.detect(image)
    assert before.known_content.matches == ()
    assert before.known_content.quality == 100
    assert before.verdict == "real"

    bank = served.folder / "deepfake" / "election.csv"
    write_csv(bank, [Entry(before.known_content.pdq, "17", "speech")])
    again = encode(astronaut, quality=50)
    verdict = served.detect_until(again, lambda verdict: verdict.known_content.matches)
    (match,) = verdict.known_content.matches
    assert (match.bank, match.disposition, match.label, match.id) == ("election", "deepfake", "speech", "17")
    assert match.distance <= 31
    assert (verdict.verdict, verdict.confidence, verdict.known_content.decides) == ("deepfake", "high", True)
    assert "the bank 'election'" in verdict.explanation
    assert served.client.detect(other).known_content.matches == ()

    bank.write_text("hash\nbad\n")
    found = served.metrics_until(lambda found: found["refused_files"] == 1)
    assert (found["files_total refused"], found["entries"]) == (1, 1)
    assert served.client.detect(again).known_content == verdict.known_content
    (line,) = [line for line in served.log if "no PDQ hash" in line]
    assert "election.csv: line 2: 'bad'" in line
    assert "stays in force" in line

    bank.unlink()
    assert served.detect_until(image, lambda verdict: not verdict.known_content.matches).verdict == "real"
    found = served.metrics_until(lambda found: found["refused_files"] == found["entries"] == 0)
    assert found["images_total decided"] >= 2
    assert found["images_total unmatched"] >= 3


def test_the_classifier_answers_with_labels(served, encode, coffee, tmp_path):
    path = tmp_path / "coffee.png"
    path.write_bytes(encode(coffee, "PNG"))
    classifier = VeridictClassifier(served.client)
    first = classifier.classify_image(str(path))
    assert first.labels["deepfake"].is_match == (first.verdict.verdict == "deepfake")
    write_csv(served.folder / "satire" / "onion.csv", [Entry(first.verdict.known_content.pdq)])
    served.detect_until(path, lambda verdict: verdict.known_content.matches)
    result = classifier.classify_image(str(path))
    assert result.positive_labels["known:onion"].weight == 1.0
    assert result.has_match
    assert "known:onion(1.00)" in str(result)
