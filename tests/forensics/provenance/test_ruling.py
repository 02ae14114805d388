"""What follows from provenance: declarations of AI decide as the policy says, and nothing acquits."""

import json
from dataclasses import replace

import pytest

from veridict.forensics.contract import Provenance, ProvenanceTrace, Verdict
from veridict.forensics.fusion import fuse, replay
from veridict.forensics.observation import Observation
from veridict.forensics.policy import GUARANTEES, ProvenancePolicy, load_policy
from veridict.forensics.replay import replay_verdict

from ..conftest import POLICY_DOCUMENT, merged, observe

#: Pixels that count as real without a doubt, and as a deepfake without one.
REAL = {"embedding": (1.0, 0.0, 0.0), "tokens": None}
FAKE = {"embedding": (0.0, 1.0, 0.0), "tokens": None}


def judged(judgement, provenance, **policy):
    rules = replace(judgement.policy, provenance=replace(judgement.policy.provenance, **policy))
    return lambda pixels: fuse(replace(observe(**pixels), provenance=provenance), replace(judgement, policy=rules))


def declared(guarantee, declares="ai", **fields):
    status = {"metadata": "none", "signed": "untrusted", "trusted": "trusted"}[guarantee]
    return Provenance(status, declares, guarantee, "Example Model", signer="Example Pictures", **fields)


def test_the_pixels_of_these_tests_are_clear(judgement):
    real, fake = fuse(observe(**REAL), judgement), fuse(observe(**FAKE), judgement)
    assert (real.verdict, real.doubts) == ("real", ())
    assert (fake.verdict, fake.doubts) == ("deepfake", ())
    assert real.provenance == fake.provenance == Provenance()


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_a_declaration_of_ai_decides(judgement, guarantee):
    verdict = judged(judgement, declared(guarantee))(REAL)
    assert verdict.verdict == "deepfake"
    assert verdict.fake_probability == pytest.approx(judgement.policy.provenance.probability[guarantee])
    assert replay(verdict.evidence) == verdict.fake_probability
    assert verdict.provenance.decides
    assert verdict.evidence[-1].signal == "provenance"
    assert verdict.explanation.startswith(verdict.evidence[-1].text[0].upper())
    assert "by its pixels alone it counts as real" in verdict.explanation
    # What anyone can write is a case for a person; what a trusted signer says is not.
    assert verdict.doubts == (() if guarantee == "trusted" else ("declared_only",))
    assert verdict.confidence == ("high" if guarantee == "trusted" else "low")


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_pixels_that_agree_make_a_declaration_sure(judgement, guarantee):
    alone = fuse(observe(**FAKE), judgement)
    verdict = judged(judgement, declared(guarantee))(FAKE)
    assert (verdict.verdict, verdict.confidence, verdict.doubts) == ("deepfake", "high", ())
    assert verdict.fake_probability >= alone.fake_probability
    assert "by its pixels alone it counts as a deepfake" in verdict.explanation


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_an_edit_with_ai_decides_only_where_a_trusted_signer_says_so(judgement, guarantee):
    verdict = judged(judgement, declared(guarantee, "ai_edited"))(REAL)
    if guarantee == "trusted":
        assert (verdict.verdict, verdict.doubts) == ("deepfake", ())
    else:
        assert (verdict.verdict, verdict.doubts) == ("real", ("declares_ai",))
        assert "the file says that AI or synthetic parts were used" in verdict.explanation


@pytest.mark.parametrize("provenance", [declared("trusted", "capture"), Provenance("none", camera="agrees")])
def test_a_camera_never_acquits(judgement, provenance):
    for pixels in (REAL, FAKE):
        alone = fuse(observe(**pixels), judgement)
        verdict = judged(judgement, provenance)(pixels)
        assert replace(verdict, provenance=None) == replace(alone, provenance=None)


def test_without_provenance_only_its_own_field_is_new(judgement):
    for provenance in (Provenance("none"), Provenance("remote"), Provenance("untrusted", signer="x")):
        for pixels in (REAL, FAKE):
            before = json.loads(fuse(observe(**pixels), judgement).to_json())
            after = json.loads(judged(judgement, provenance)(pixels).to_json())
            assert before.pop("provenance") != after.pop("provenance")
            assert before == after


def test_tampered_credentials_and_foreign_camera_data_call_for_a_person(judgement):
    tampered = Provenance("tampered", generator="Example Model", source_type="trainedAlgorithmicMedia")
    assert judged(judgement, tampered)(REAL).doubts == ("credentials_tampered",)
    assert judged(judgement, tampered)(FAKE).doubts == ("credentials_tampered",)
    foreign = Provenance("none", camera="contradicts")
    assert judged(judgement, foreign)(REAL).doubts == ("camera_contradicted",)
    assert judged(judgement, foreign)(FAKE).doubts == ()


@pytest.mark.parametrize(
    ("needed", "deciding"), [("never", ()), ("trusted", GUARANTEES[2:]), ("signed", GUARANTEES[1:])]
)
def test_the_policy_says_which_guarantee_decides(judgement, needed, deciding):
    for guarantee in GUARANTEES:
        verdict = judged(judgement, declared(guarantee), ai=needed)(REAL)
        assert verdict.provenance.decides == (guarantee in deciding)
        assert (verdict.verdict == "deepfake") == (guarantee in deciding)


def test_the_answer_is_above_any_threshold(judgement):
    low = dict.fromkeys(GUARANTEES, 0.1)
    verdict = judged(judgement, declared("signed"), probability=low)(REAL)
    assert verdict.threshold < verdict.fake_probability < 0.61


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ai": "always"}, "must be metadata, signed, trusted or never"),
        ({"probability": {"metadata": 0.9}}, "is needed for metadata, signed, trusted"),
        ({"probability": dict.fromkeys(GUARANTEES, 1.0)}, r"must lie inside \(0, 1\)"),
        ({"camera": 1}, "unexpected keyword"),
    ],
)
def test_a_wrong_rule_is_refused(tmp_path, calibration, change, message):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(merged(POLICY_DOCUMENT, {"provenance": change})))
    with pytest.raises(ValueError, match=message):
        load_policy(path, calibration)


def test_a_policy_of_an_earlier_version_has_the_default_rules(judgement):
    assert "provenance" not in POLICY_DOCUMENT
    assert judgement.policy.provenance == ProvenancePolicy()


def test_provenance_survives_the_wire_form_and_the_answer(judgement):
    trace = ProvenanceTrace("generator", "text parameters", "Steps: 20 …")
    seen = replace(observe(**REAL), provenance=declared("signed", codes=("a.b",), traces=(trace,), camera="bare"))
    again = Observation.from_bytes(seen.to_bytes())
    assert again.provenance == seen.provenance
    verdict = fuse(again, judgement)
    assert Verdict.from_json(verdict.to_json()) == verdict
    assert verdict.provenance == replace(seen.provenance, decides=True)


PIXELS = {
    "real": {"embedding": (1.0, 0.0, 0.0)},
    "fake": {"embedding": (0.0, 1.0, 0.0)},
    "nothing to see": {"embedding": (0.0, 1.0, 0.0), "tone": 0.0},
    "a fake face": {"embedding": (1.0, 0.0, 0.0), "faces": (3.0,)},
}
PROVENANCE = {
    "none": Provenance("none"),
    "tampered": Provenance("tampered"),
    "foreign camera": Provenance("none", camera="contradicts"),
    **{f"{what}, {who}": declared(who, what) for what in ("ai", "ai_edited", "composite") for who in GUARANTEES},
}


@pytest.mark.parametrize("pixels", PIXELS.values(), ids=PIXELS)
@pytest.mark.parametrize("provenance", PROVENANCE.values(), ids=PROVENANCE)
@pytest.mark.parametrize("unusual", [50.0, 1e6], ids=["unusual", "usual"])
def test_answers_replay(judgement, provenance, pixels, unusual):
    judgement = replace(judgement, policy=replace(judgement.policy, unusual=unusual))
    models = replace(judgement.models, calibration=judgement.calibration.version, policy=judgement.policy.version)
    verdict = fuse(replace(observe(**pixels), provenance=provenance), replace(judgement, models=models))
    stored = Verdict.from_json(verdict.to_json())
    assert replay_verdict(stored, judgement.calibration, judgement.policy) == []
    if verdict.provenance.decides:
        changed = replace(stored, provenance=replace(stored.provenance, generator="Another"))
        named = {d.field for d in replay_verdict(changed, judgement.calibration, judgement.policy)}
        assert "explanation" in named


def test_answers_and_observations_of_earlier_versions_still_read(judgement):
    seen = observe(**REAL)
    document = json.loads(fuse(seen, judgement).to_json())
    del document["provenance"]
    assert Verdict.from_json(json.dumps(document)).provenance is None
