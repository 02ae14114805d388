"""Answers in other services' shapes: the field names that their parsers read, and a score that means the same."""

import dataclasses
import json

import pytest

from veridict.client import InvalidImageError, OverloadedError, Result
from veridict.client.formats import FORMATS, operating_score
from veridict.forensics.contract import Category, ClipPrediction, Face, ImageFacts, ModelVersions, Verdict

VERDICT = Verdict(
    request_id="upload-1",
    image=ImageFacts("ab" * 32, "JPEG", 640, 480, 12345),
    verdict="deepfake",
    fake_probability=0.9,
    confidence="high",
    category=Category("animal", {"animal": 1.0}),
    clip=ClipPrediction(0.4, 0.6),
    faces=(Face((1, 2, 30, 40), 0.2), Face((5, 6, 20, 20), 0.7)),
    forensics={},
    explanation="Because.",
    evidence=(),
    models=ModelVersions("a", "b", "c"),
    threshold=0.86,
)


def convert(form, **changes):
    document = FORMATS[form]("cat.jpg", Result(0, None, dataclasses.replace(VERDICT, **changes), None))
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.5, 0.8599999999999999, 0.86, 0.8600000000000001, 0.999999, 1.0])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.86, 0.99])
def test_the_score_reaches_one_half_exactly_where_the_verdict_is_deepfake(probability, threshold):
    called = "deepfake" if probability >= threshold else "real"
    verdict = dataclasses.replace(VERDICT, fake_probability=probability, threshold=threshold, verdict=called)
    assert (operating_score(verdict) >= 0.5) == (called == "deepfake")
    assert 0.0 <= operating_score(verdict) <= 1.0


def test_the_score_of_a_more_likely_fake_is_higher():
    scores = [
        operating_score(dataclasses.replace(VERDICT, fake_probability=p, verdict="deepfake" if p >= 0.86 else "real"))
        for p in (0.01, 0.3, 0.85, 0.87, 0.99)
    ]
    assert scores == sorted(set(scores))


def test_hive_shape():
    document = convert("hive")
    assert document["code"] == 200
    (status,) = document["status"]
    assert status["status"] == {"code": "0", "message": "SUCCESS"}
    media = status["response"]["input"]["media"]
    assert (media["filename"], media["width"], media["height"]) == ("cat.jpg", 640, 480)
    (output,) = status["response"]["output"]
    scores = {item["class"]: item["score"] for item in output["classes"]}
    assert scores["ai_generated"] + scores["not_ai_generated"] == pytest.approx(1)
    assert scores["none"] + scores["inconclusive"] == pytest.approx(1)
    assert scores["deepfake"] == 0.7
    assert scores["ai_generated"] > 0.5


def test_sightengine_shape():
    document = convert("sightengine", faces=())
    assert document["status"] == "success"
    assert document["request"]["id"] == "upload-1"
    assert document["request"]["operations"] == 1
    assert document["type"]["ai_generated"] > 0.5
    assert document["type"]["deepfake"] == 0.0
    assert document["media"] == {"id": "ab" * 32, "uri": "cat.jpg"}


def test_native_shape_is_the_document_with_the_name():
    document = convert("json")
    assert document.pop("path") == "cat.jpg"
    assert Verdict.from_json(json.dumps(document)) == VERDICT


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "error", [InvalidImageError("cut short", code="image.truncated", request_id="r"), OverloadedError("full")]
)
def test_every_shape_carries_the_code_of_an_error(form, error):
    document = FORMATS[form]("cat.jpg", Result(0, None, None, error))
    assert error.code in json.dumps(document)
    assert document.get("status") != "success"
    assert document.get("code") != 200


def test_refused_images_and_failures_of_the_service_differ():
    refused, failed = InvalidImageError("cut", code="image.truncated"), OverloadedError("full")
    kinds = {FORMATS["sightengine"]("x", Result(0, None, None, e))["error"]["type"] for e in (refused, failed)}
    codes = {FORMATS["hive"]("x", Result(0, None, None, e))["code"] for e in (refused, failed)}
    assert kinds == {"media_error", "internal_error"}
    assert codes == {400, 500}
