"""``veridict compare``: the comparison on replies written here, the command's errors, and a live server with itself."""

import json
import math
import socket

import pytest

from veridict.client import InternalError, InvalidImageError
from veridict.deploy.command import main
from veridict.deploy.compare import Pair, Reply, compare_pairs
from veridict.forensics.contract import ModelVersions

MODELS = ModelVersions("a", "b", "c", "d", "e")
TRUNCATED = Reply.of(InvalidImageError("x", code="image.truncated"))
CORRUPT = Reply.of(InvalidImageError("x"))
FAILED = Reply.of(InternalError("x"))


def judged(verdict="real", probability=0.5, confidence="high", category="animal", seconds=0.01, models=MODELS):
    return Reply(verdict, confidence, category, probability, models, seconds=seconds)


def compare(*replies):
    return compare_pairs([Pair(str(number), *pair) for number, pair in enumerate(replies)], "old:1", "new:1")


def test_equal_servers_differ_in_nothing():
    found = compare(*[(judged(), judged())] * 3, (TRUNCATED, TRUNCATED))
    assert (found.images, found.compared, found.judged, found.flips) == (4, 4, 3, 0)
    assert (found.refused_alike, found.refused_otherwise, found.confidences, found.categories) == (1, 0, 0, 0)
    assert (found.mean, found.p95, found.largest) == (0.0, 0.0, 0.0)
    assert found.problems(most_flips=0.0, largest_difference=0.0) == []
    assert found.old.models == found.new.models == (MODELS,)


def test_what_differs_is_counted():
    found = compare(
        (judged(probability=0.5), judged("deepfake", 0.9, "low", seconds=0.03)),
        (judged(), judged(category="food", models=ModelVersions("a2", "b", "c"))),
        (TRUNCATED, CORRUPT),
        (judged(), CORRUPT),
        (judged(), FAILED),
    )
    assert (found.compared, found.judged, found.flips, found.refused_by_one) == (4, 2, 2, 1)
    assert (found.refused_alike, found.refused_otherwise, found.confidences, found.categories) == (0, 1, 1, 1)
    assert found.largest == pytest.approx(math.log(9))
    assert found.mean == pytest.approx(math.log(9) / 2)
    assert found.p95 == pytest.approx(0.95 * math.log(9))
    assert [pair.image for pair in found.changed] == ["0", "3"]
    assert [pair.image for pair in found.failed] == ["4"]
    assert (found.old.median_ms, found.new.median_ms) == (pytest.approx(10), pytest.approx(20))
    assert [models.clip for models in found.new.models] == ["a", "a2"]
    text = found.to_text()
    assert "0: real 0.5000 high -> deepfake 0.9000 low" in text
    assert "3: real 0.5000 high -> [image.corrupt]" in text
    assert "models of new:1" in text


def test_the_bounds_are_shares_and_logits():
    found = compare(*[(judged(), judged())] * 199, (judged(probability=0.5), judged("deepfake", 0.9)))
    assert found.problems(most_flips=0.005) == []
    assert len(found.problems(most_flips=0.004)) == 1
    assert len(found.problems(most_flips=0.004, largest_difference=2.0)) == 2
    assert found.problems(most_flips=0.005, largest_difference=3.0) == []


def test_what_was_not_compared_is_no_success():
    assert compare().problems(1.0) == ["no image could be compared"]
    assert compare((FAILED, FAILED)).problems(1.0) == ["no image could be compared"]
    assert len(compare((judged(), judged()), (judged(), FAILED)).problems(1.0)) == 1
    assert "median latency" in compare().to_text()


def test_certain_probabilities_have_finite_differences():
    found = compare((judged(probability=0.0), judged("deepfake", 1.0)), (judged(probability=1.0),) * 2)
    assert math.isfinite(found.largest)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert document["changed"] == [
        {
            "image": "0",
            "old": {"verdict": "real", "fake_probability": 0.0, "confidence": "high"},
            "new": {"verdict": "deepfake", "fake_probability": 1.0, "confidence": "high"},
        }
    ]


@pytest.fixture
def photo(tmp_path, encode, astronaut):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(astronaut))
    return path


@pytest.fixture
def nobody():
    """Return an address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


def test_servers_that_do_not_answer_are_named(photo, nobody, capsys):
    assert main(["compare", nobody, nobody, str(photo), "--deadline", "1"]) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines() == [f"veridict compare: no detector at {nobody}"] * 2


@pytest.mark.parametrize("paths", [["missing.jpg"], ["."], ["-"]])
def test_nothing_to_send_is_a_usage_error(paths, nobody, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", nobody, nobody, *paths]) == 2
    assert capsys.readouterr().err.startswith("veridict compare: ")


def test_a_malformed_address_is_a_usage_error(photo, nobody, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", nobody, "http://host:1", str(photo)])
    assert caught.value.code == 2
    assert "http://host:1" in capsys.readouterr().err


@pytest.mark.live
def test_a_server_agrees_with_itself(triton, photo, tmp_path, encode, cat, capsys):
    (tmp_path / "cat.png").write_bytes(encode(cat, "PNG"))
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:5000])
    assert main(["compare", triton.url, triton.url, str(tmp_path), "--most-flips", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["compared"], found["judged"], found["refused_alike"]) == (3, 3, 2, 1)
    assert found["flips"] == found["refused_otherwise"] == found["confidences"] == found["categories"] == 0
    assert found["logit_difference"] == {"mean": 0.0, "p95": 0.0, "largest": 0.0}
    assert found["old"]["models"] == found["new"]["models"]
    assert found["old"]["models"][0]["clip"]
    assert found["problems"] == found["changed"] == found["failed"] == []


@pytest.mark.live
def test_a_file_that_cannot_be_read_does_not_end_the_run(triton, photo, monkeypatch, capsys):
    gone = str(photo.with_name("gone.jpg"))
    monkeypatch.setattr("veridict.deploy.cli_compare.find_images", lambda paths: [gone, *paths])
    assert main(["compare", triton.url, triton.url, str(photo)]) == 1
    shown = capsys.readouterr()
    assert f"{gone}: {triton.url}: [client.input] cannot read the file" in shown.err
    assert "2, 1 compared, 1 judged by both" in shown.out
