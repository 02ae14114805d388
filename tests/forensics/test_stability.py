"""Stability: which images are scored again from re-encodings, and what a flipped verdict means for the answer."""

import dataclasses
import json

import numpy as np
import pytest

from veridict.deploy.manifest import default_repository
from veridict.export.pipeline import InProcessDetector
from veridict.forensics.alterations import ALTERATIONS, alter_views
from veridict.forensics.contract import ModelVersions, Verdict
from veridict.forensics.fusion import fuse
from veridict.forensics.named_policies import SCHEMA, read_policy
from veridict.forensics.observation import Observation, Scores
from veridict.forensics.policy import StabilityPolicy, check_policy, load_policy, parse_policy, to_document
from veridict.forensics.preprocess import Prepared, prepare
from veridict.forensics.replay import replay_verdict
from veridict.forensics.stability import check_stability, needs_check

from .conftest import observe

REAL, FAKE = np.array([1.0, 0.0, 0.0], np.float32), np.array([0.0, 1.0, 0.0], np.float32)
TOKENS = np.array([[0.6, 0.8]] * 2, np.float32)


def altered_observation(seen, *embeddings):
    scores = {name: Scores(e, TOKENS, ()) for name, e in zip(ALTERATIONS, embeddings, strict=True)}
    return dataclasses.replace(observe(seen, ela=5.0), altered=scores)


def with_stability(judgement, when, margin=3.0):
    policy = dataclasses.replace(judgement.policy, stability=StabilityPolicy(when, margin))
    models = ModelVersions("a", "b", judgement.calibration.version, policy=judgement.policy.version)
    return dataclasses.replace(judgement, policy=policy, models=models)


def test_re_encodings_are_views_like_the_image_itself(astronaut, encode):
    prepared = prepare(encode(astronaut), alterations=True)
    assert len(prepared.crops) == 1
    assert [image.view.shape for image in prepared.alterations] == [(224, 224, 3)] * 2
    for image in prepared.alterations:
        assert image.observation is prepared.observation
        assert [crop.shape for crop in image.crops] == [(224, 224, 3)]
        for original, changed in ((prepared.view, image.view), (prepared.crops[0], image.crops[0])):
            difference = np.abs(original.astype(int) - changed)
            assert 0 < difference.mean() < 8
    again = prepare(encode(astronaut), alterations=True)
    assert all(np.array_equal(a, b) for a, b in zip(prepared.altered[0], again.altered[0], strict=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (5, 5)])
def test_tiny_pictures_have_re_encodings_too(shape):
    views = alter_views(np.zeros((*shape, 3), np.uint8), [])
    assert [view.shape for (view,) in views] == [(224, 224, 3)] * 2


def test_without_being_asked_nothing_is_re_encoded(astronaut, encode):
    assert prepare(encode(astronaut)).altered == ()


def test_a_flip_makes_confidence_low_and_is_named(judgement):
    verdict = fuse(altered_observation(FAKE, REAL, FAKE), judgement)
    assert verdict.verdict == "deepfake"
    assert verdict.stability.flips == ("jpeg_60",)
    assert set(verdict.stability.probabilities) == set(ALTERATIONS)
    assert verdict.stability.probabilities["scale_0.75"] == verdict.fake_probability
    assert verdict.stability.probabilities["jpeg_60"] < verdict.threshold
    assert "unstable" in verdict.doubts
    assert verdict.confidence == "low"
    assert "the verdict changes when the picture is compressed or reduced" in verdict.explanation


def test_a_verdict_that_holds_changes_nothing_else(judgement):
    plain, checked = fuse(observe(FAKE, ela=5.0), judgement), fuse(altered_observation(FAKE, FAKE, FAKE), judgement)
    assert checked.stability.flips == ()
    assert dataclasses.replace(checked, stability=None) == plain
    assert plain.stability is None


def test_the_scores_of_re_encodings_travel_with_the_observation():
    sent = altered_observation(FAKE, REAL, FAKE)
    got = Observation.from_bytes(sent.to_bytes())
    assert list(got.altered) == list(sent.altered)
    for name, scores in sent.altered.items():
        assert np.array_equal(got.altered[name].embedding, scores.embedding)
        assert np.array_equal(got.altered[name].class_tokens, scores.class_tokens)
        assert got.altered[name].face_logits == ()


def test_a_re_encoding_with_other_faces_is_no_observation():
    wrong = dataclasses.replace(observe(FAKE), altered={"jpeg_60": Scores(FAKE, TOKENS, (1.0,))})
    with pytest.raises(ValueError, match="1 face logits for 0 faces"):
        Observation.from_bytes(wrong.to_bytes())


def test_an_unstable_answer_replays(judgement):
    judgement = with_stability(judgement, "never")
    verdict = Verdict.from_json(fuse(altered_observation(FAKE, REAL, FAKE), judgement).to_json())
    assert replay_verdict(verdict, judgement.calibration, judgement.policy) == []
    hidden = dataclasses.replace(verdict, stability=None)
    assert "doubts" in [d.field for d in replay_verdict(hidden, judgement.calibration, judgement.policy)]


@pytest.mark.parametrize(
    ("probability", "confidence", "near"),
    [(0.9, "high", True), (0.9, "low", False), (0.995, "high", False), (0.01, "high", False), (1.0, "high", False)],
)
def test_near_are_confident_answers_within_the_margin(judgement, probability, confidence, near):
    verdict = dataclasses.replace(
        fuse(observe(FAKE), judgement), fake_probability=probability, threshold=0.8, confidence=confidence
    )
    assert needs_check(verdict, StabilityPolicy("near", 2.0)) == near
    assert needs_check(verdict, StabilityPolicy("always"))
    assert not needs_check(verdict, StabilityPolicy("never"))


def test_only_the_images_that_the_policy_wants_are_scored_again(judgement):
    calls = []
    image = Prepared(observe(FAKE), np.zeros((224, 224, 3), np.uint8), [])

    def score(images):
        calls.append(len(images))
        return [observe(REAL) for _ in images]

    def run(when, found):
        seen = [observe(FAKE), observe(REAL)]
        return check_stability(seen, with_stability(judgement, when, 0.0), lambda place: found[place], score)

    assert [o.altered for o in run("never", [None, None])] == [{}, {}]
    assert [o.altered for o in run("near", [None, None])] == [{}, {}]
    assert calls == []
    # The second image is one whose re-encodings could not be had in time.
    first, second = run("always", [[image, image], []])
    assert calls == [2]
    assert list(first.altered) == list(ALTERATIONS)
    assert second.altered == {}


@pytest.mark.parametrize(
    ("stability", "message"),
    [
        ({"when": "sometimes"}, "stability.when must be never, near or always"),
        ({"margin": -1}, "stability.margin must be a number"),
        ({"margin": "3"}, "stability.margin must be a number"),
        ({"margin": float("nan")}, "stability.margin must be a number"),
        ({"how": 1}, "how"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(judgement, stability, message):
    with pytest.raises((ValueError, TypeError), match=message):
        check_policy(
            parse_policy({**to_document(judgement.policy), "stability": stability}, "v"), judgement.calibration
        )


def test_a_policy_by_name_cannot_settle_it(judgement, tmp_path):
    path = tmp_path / "careful.json"
    path.write_text(json.dumps({"schema": SCHEMA, "stability": {"when": "always"}}))
    with pytest.raises(ValueError, match="stability: unknown entry"):
        read_policy(path, judgement)
    path.write_text(json.dumps({"schema": SCHEMA}))
    always = with_stability(judgement, "always")
    assert read_policy(path, always).judgement.policy.stability == always.policy.stability


def test_the_bundled_policy_checks_no_image():
    repository = default_repository()
    judgement = InProcessDetector(repository, networks={"unused": None}).judgement
    assert load_policy(repository / "fusion/1/policy.json", judgement.calibration).stability.when == "never"


def test_bundled_models_check_every_image_where_the_policy_says_so(astronaut, encode, networks):
    detector = InProcessDetector(default_repository(), networks=networks)
    (plain,) = detector.detect([encode(astronaut)])
    detector.judgement = with_stability(detector.judgement, "always")
    (checked,) = detector.detect([encode(astronaut)])
    assert set(checked.stability.probabilities) == set(ALTERATIONS)
    assert all(0.0 < probability < 1.0 for probability in checked.stability.probabilities.values())
    assert (checked.fake_probability, checked.verdict) == (plain.fake_probability, plain.verdict)
