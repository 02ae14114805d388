"""The classifier has the shape of python-threatexchange's interface, and puts a verdict into labels."""

import importlib.util

import pytest

from veridict.client import DetectorClient, InvalidImageError
from veridict.client.classifier import VeridictClassifier

from .test_unit import DOCUMENT, Scripted

MATCH = {"bank": "election", "disposition": "deepfake", "label": "", "id": "", "distance": 64}
KNOWN = {"pdq": "0f" * 32, "quality": 100, "matches": [MATCH, {**MATCH, "distance": 128}], "decides": True}


class Content:
    """A content type of python-threatexchange, as far as a classifier sees it."""

    def __init__(self, name):
        self.get_name = lambda: name


def classify(**change):
    client = DetectorClient(transport=Scripted({**DOCUMENT, **change}))
    return VeridictClassifier(client).classify(Content("photo"), b"image")


def test_a_real_picture_has_no_matching_label():
    result = classify()
    assert (result.has_match, result.positive_labels, str(result)) == (False, {}, "None")
    assert result.labels["deepfake"].weight == result.verdict.fake_probability == 0.25
    assert str(result.labels["deepfake"]) == "0.25"


def test_verdict_confidence_and_banks_are_labels():
    result = classify(verdict="deepfake", confidence="low", known_content=KNOWN)
    assert str(result) == "deepfake(0.25),needs_review(1.00),known:election(0.75)"
    assert result.has_match
    assert all(info.is_match for info in result.labels.values())


def test_other_content_is_refused_and_errors_are_the_clients_own():
    refusing = VeridictClassifier(DetectorClient(transport=Scripted(InvalidImageError("image.corrupt"))))
    with pytest.raises(ValueError, match="unsupported content type: text"):
        refusing.classify(Content("text"), "words")
    with pytest.raises(InvalidImageError):
        refusing.classify(Content("photo"), b"image")


def test_the_default_is_the_server_of_the_environment(monkeypatch):
    monkeypatch.setenv("VERIDICT_URL", "127.0.0.1:1")
    assert VeridictClassifier.get_name() == "veridict"
    assert isinstance(VeridictClassifier.get_with_default_settings(), VeridictClassifier)


@pytest.mark.skipif(importlib.util.find_spec("threatexchange") is None, reason="python-threatexchange is not installed")
def test_it_has_all_that_the_interface_asks_for():
    from threatexchange.classifier.classifier import ClassificationInfo, ClassificationResult, Classifier
    from threatexchange.content_type.photo import PhotoContent

    result = classify()
    for shape, ours in (
        (Classifier, VeridictClassifier),
        (ClassificationResult, result),
        (ClassificationInfo, result.labels["deepfake"]),
    ):
        assert all(hasattr(ours, name) for name in vars(shape) if not name.startswith("_")), shape
    assert VeridictClassifier.get_content_types() == [PhotoContent]
    client = DetectorClient(transport=Scripted(DOCUMENT))
    assert VeridictClassifier(client).classify(PhotoContent, b"image").labels
