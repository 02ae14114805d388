"""The examples of README and docs, run against a real server and a real worker."""

import json
import re
import shlex
import urllib.request

import pytest

from veridict.deploy.command import main

pytestmark = pytest.mark.live
LOCAL = "127.0.0.1:8001"


@pytest.fixture
def ready(triton, workplace, request, monkeypatch):
    """Return a function that points a block at the running server, and at a worker where it needs one."""

    def prepare(block):
        monkeypatch.setenv("VERIDICT_URL", triton.url)
        if block.needs_worker:
            for name, value in request.getfixturevalue("worker")[0].items():
                monkeypatch.setenv(name, value)
        return block.text.replace(LOCAL, triton.url)

    return prepare


def test_python_blocks_run(python_block, ready):
    exec(compile(ready(python_block), python_block.page.name, "exec"), {"__name__": "example"})


def test_cheap_commands_run(documents, cheap_block, ready, capsys):
    for words in documents.commands(ready(cheap_block)):
        name = words[0].rpartition("/")[2]
        to_tls = any(word.startswith("--tls") for word in words)  # the detector of the tests has no certificate
        if name == "veridict" and words[1] in documents.run and not to_tls:
            assert main(words[1:]) == 0, shlex.join(words)


def shape(value):
    """Return the keys of a JSON value; of a list the shape of its first item, of a leaf None."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def test_sample_answers_have_the_form_of_a_live_one(sample_block, detector, encode, astronaut):
    verdict = detector.detect(encode(astronaut))
    if sample_block.language == "json":
        sample, live = json.loads(sample_block.text), json.loads(verdict.to_json())
        assert shape(sample) == shape({**live, "doubts": sample["doubts"]})
    else:
        line = re.compile(r"^(\w[\w ]*\w) *: ", flags=re.MULTILINE)
        assert line.findall(sample_block.text) == line.findall(verdict.to_text())


@pytest.mark.slow
def test_the_metrics_in_the_text_are_served(documents, detector, triton, worker, encode, cat):
    assert detector.detect(encode(cat)).verdict
    served = ""
    for url in (triton.metrics_url, f"{worker[1]}/metrics"):
        with urllib.request.urlopen(url, timeout=10) as answer:
            served += answer.read().decode()
    for page in documents.pages:
        for name in re.findall(r"\bveridict_[a-z_]+", documents.prose(page)):
            assert f"# TYPE {name} " in served or f"# TYPE {name.removesuffix('_total')} " in served, name
