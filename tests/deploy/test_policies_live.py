"""Policies by name through a real server: choice, labels, shadows, hot reload, refusals, metrics and replay."""

import json
import re
import time
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.client import ClientConfig, DetectorClient, UnknownPolicyError, VeridictError
from veridict.deploy.command import main
from veridict.deploy.launcher import LaunchError, ServerSettings, TritonServer
from veridict.forensics.named_policies import SCHEMA

pytestmark = pytest.mark.slow
PATIENCE = 90.0
STRICT = {"decisions": {"general": {"threshold": 0.97}}, "signals": {"ela": False}}
UPLOADS = {
    "labels": {
        "cat": {"prompts": ["a photo of a cat"], "against": ["a photo of a cup of coffee"], "threshold": 0.5},
        "food": ["a photo of food"],
    },
    "shadows": ["strict"],
}


def write(folder, name, document):
    (folder / f"{name}.json").write_text(json.dumps({"schema": SCHEMA, **document}))


class Served:
    def __init__(self, server, client, folder, log):
        self.server, self.client, self.folder, self.log = server, client, folder, log

    def metrics(self):
        with urllib.request.urlopen(self.server.metrics_url, timeout=10) as answer:
            text = answer.read().decode()
        pattern = r"^veridict_((?:policy|policies|shadow)\w*)(?:\{(.*)\})? (\S+)$"
        found = {}
        for name, labels, value in re.findall(pattern, text, re.MULTILINE):
            words = [word for key, word in re.findall(r'(\w+)="([^"]*)"', labels) if key != "process"]
            found[" ".join([name, *sorted(words)])] = float(value)
        return found

    def until(self, holds, read):
        ends = time.monotonic() + PATIENCE
        while not holds(found := read()):
            assert time.monotonic() < ends, found
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder, log = tmp_path_factory.mktemp("policies"), []
    write(folder, "strict", STRICT)
    write(folder, "uploads", UPLOADS)
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0, policies=folder)
    with (
        TritonServer(settings, log.append) as server,
        DetectorClient(config=ClientConfig(server.url, deadline=60.0)) as client,
    ):
        yield Served(server, client, folder, log)


def test_a_server_does_not_start_with_a_policy_that_cannot_be_used(tmp_path):
    write(tmp_path, "bad", {"decisions": {"general": {"treshold": 0.9}}})
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0, policies=tmp_path)
    with pytest.raises(LaunchError, match=r"bad\.json: decisions\.general\.treshold: unknown entry"):
        TritonServer(settings).start()


def test_a_name_chooses_threshold_signals_labels_and_shadows(served, encode, cat, coffee, tmp_path, capsys):
    plain = served.client.detect(encode(cat))
    assert (plain.policy, plain.labels, plain.shadow) == ("", {}, ())
    strict = served.client.detect(encode(cat), policy="strict")
    assert (strict.policy, strict.threshold) == ("strict", 0.97)
    assert strict.models.policy != plain.models.policy
    assert {item.signal: item.contribution for item in strict.evidence}["ela"] == 0.0
    uploads = served.client.detect(encode(cat), policy="uploads")
    assert (uploads.fake_probability, uploads.threshold) == (plain.fake_probability, plain.threshold)
    assert uploads.labels["cat"].reached
    assert served.client.detect(encode(coffee), policy="uploads").labels["cat"].probability < 0.5
    (shadow,) = uploads.shadow
    assert (shadow.name, shadow.policy, shadow.fake_probability, shadow.threshold) == (
        "strict",
        strict.models.policy,
        strict.fake_probability,
        0.97,
    )
    found = served.until(lambda found: found["policy_verdicts_total real uploads"] >= 2, served.metrics)
    assert found["policies"] == 2
    assert found["policy_verdicts_total (repository) real"] >= 1
    assert found["shadow_verdicts_total strict true uploads"] + found["shadow_verdicts_total false strict uploads"] >= 2

    answers = tmp_path / "answers.jsonl"
    answers.write_text("\n".join(verdict.to_json() for verdict in (plain, strict, uploads)))
    assert main(["replay", str(answers), "--policies", str(served.folder)]) == 0
    assert main(["replay", str(answers)]) == 1
    assert "judged by the policy 'strict'" in capsys.readouterr().err


def test_an_unknown_name_is_refused_and_never_replaced(served, encode, cat):
    image = encode(cat)
    with pytest.raises(UnknownPolicyError, match="there is no policy 'moon'") as caught:
        served.client.detect(image, policy="moon")
    assert caught.value.code == "server.unknown_policy"
    with triton.InferenceServerClient(served.server.url) as raw:
        tensor = triton.InferInput("IMAGE", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[image]], dtype=np.object_))
        for name in ("", 5, True):
            with pytest.raises(InferenceServerException, match=r"\[server\.unknown_policy\]"):
                raw.infer("detector", [tensor], parameters={"policy": name})
        assert raw.infer("detector", [tensor], parameters={"other": "x"}).as_numpy("VERDICT").size == 1
    served.until(lambda found: found["policy_unknown_total"] >= 4, served.metrics)


def test_files_come_into_force_while_the_server_runs_and_bad_ones_do_not(served, encode, cat):
    image = encode(cat)

    def detect(policy):
        try:
            return served.client.detect(image, policy=policy)
        except VeridictError as error:
            return error.code

    write(served.folder, "new", {"labels": {"dog": {"prompts": ["a photo of a dog"], "threshold": 0.9}}})
    new = served.until(lambda verdict: verdict != "server.unknown_policy", lambda: detect("new"))
    assert set(new.labels) == {"dog"}
    before = detect("strict")

    write(served.folder, "strict", {"decisions": {"general": {"threshold": 2}}})
    found = served.until(lambda found: found["policies_refused"] == 1, served.metrics)
    assert (found["policies"], found["policy_reloads_total refused"]) == (3, 1)
    assert detect("strict").threshold == before.threshold == 0.97
    (line,) = [line for line in served.log if "(the policies that were in force stay)" in line]
    assert "strict.json: decisions.general: the threshold must lie inside (0, 1)" in line

    write(served.folder, "strict", {"decisions": {"general": {"threshold": 0.98}}})
    served.until(lambda verdict: verdict.threshold == 0.98, lambda: detect("strict"))
    write(served.folder, "default", {"decisions": {"general": {"threshold": 0.96}}})
    changed = served.until(lambda verdict: verdict.policy == "default", lambda: detect(None))
    assert changed.threshold == 0.96
    (served.folder / "default.json").unlink()
    served.until(lambda verdict: verdict.policy == "", lambda: detect(None))
