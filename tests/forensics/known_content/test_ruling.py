"""What a match does to an answer: the policy decides, and an answer without a match is as it was."""

import json
from dataclasses import replace

import pytest

from veridict.forensics.contract import KnownContent, KnownMatch, ModelVersions, Verdict
from veridict.forensics.fusion import fuse, replay
from veridict.forensics.observation import Observation
from veridict.forensics.policy import KnownContentPolicy, load_policy, to_document
from veridict.forensics.replay import replay_verdict

from ..conftest import POLICY_DOCUMENT, merged, observe

PDQ = "0f" * 32
FAKE = KnownMatch("election", "deepfake", "speech", "17", 4)
REAL = KnownMatch("agency", "real", "", "", 2)
SATIRE = KnownMatch("onion", "satire", "", "n4", 31)
#: Pictures that the pixels alone make real and deepfake, without a doubt.
REAL_PIXELS = {"embedding": (1.0, 0.0, 0.0), "tokens": (0.6, -0.8), "tone": 50.0}
FAKE_PIXELS = {"embedding": (0.0, 1.0, 0.0), "tokens": (0.6, 0.8), "faces": (8.0,), "tone": 50.0}


def known(*matches):
    return KnownContent(PDQ, 100, matches, "0123456789ab")


def decide(judgement, seen, *matches, **policy):
    rules = replace(judgement.policy, known_content=KnownContentPolicy(**policy))
    return fuse(seen, replace(judgement, policy=rules), "r", known(*matches))


def without_known(verdict):
    return replace(verdict, known_content=None)


@pytest.fixture(params=[REAL_PIXELS, FAKE_PIXELS], ids=["real", "deepfake"])
def seen(request):
    return observe(**request.param)


def test_an_answer_without_a_match_is_as_it_was_but_for_the_new_field(judgement, seen):
    before = fuse(seen, judgement, "r")
    assert before.known_content is None
    answer = decide(judgement, seen)
    assert answer.known_content == known()
    assert without_known(answer) == before
    hashed = fuse(replace(seen, pdq=PDQ, pdq_quality=7), judgement, "r")
    assert hashed.known_content == KnownContent(PDQ, 7)
    assert without_known(hashed) == before


def test_a_known_deepfake_decides(judgement):
    before = fuse(observe(**REAL_PIXELS), judgement)
    assert before.verdict == "real"
    answer = decide(judgement, observe(**REAL_PIXELS, frames=3), SATIRE, FAKE)
    assert (answer.verdict, answer.confidence, answer.doubts) == ("deepfake", "high", ())
    assert answer.known_content.decides
    assert answer.fake_probability == pytest.approx(0.999)
    assert answer.explanation == (
        "It matches the entry 'speech' of the bank 'election' of known content (deepfake; 4 of 256 bits differ); "
        "by its pixels alone it counts as real"
    )
    assert answer.evidence[-1].signal == "known_content"
    assert replay(answer.evidence) == answer.fake_probability


def test_a_match_never_lowers_what_the_pixels_say(judgement):
    judged = fuse(observe(**FAKE_PIXELS, side=100, box=90), judgement)
    sure = decide(judgement, observe(**FAKE_PIXELS, side=100, box=90), FAKE, probability=0.75)
    assert judged.verdict == sure.verdict == "deepfake"
    assert sure.fake_probability >= judged.fake_probability
    assert "by its pixels alone it counts as a deepfake" in sure.explanation


def test_a_picture_known_as_real_acquits_nobody_but_a_person_looks(judgement):
    before = fuse(observe(**FAKE_PIXELS), judgement)
    answer = decide(judgement, observe(**FAKE_PIXELS), REAL)
    assert before.verdict == answer.verdict == "deepfake"
    assert answer.fake_probability == before.fake_probability
    assert not answer.known_content.decides
    assert answer.doubts == (*before.doubts, "known_otherwise")
    assert answer.confidence == "low"
    assert (
        "it matches an entry of the bank 'agency' of known content (real; 2 of 256 bits differ)" in answer.explanation
    )
    assert answer.explanation.endswith("a bank of known pictures contradicts the verdict: a person should look")


def test_a_real_match_of_a_real_picture_is_named_and_no_doubt(judgement):
    answer = decide(judgement, observe(**REAL_PIXELS), REAL)
    assert (answer.verdict, answer.doubts) == ("real", fuse(observe(**REAL_PIXELS), judgement).doubts)
    assert "of the bank 'agency'" in answer.explanation


def test_a_match_of_another_disposition_is_named_and_decides_nothing(judgement, seen):
    before = fuse(seen, judgement, "r")
    answer = decide(judgement, seen, SATIRE)
    assert (answer.verdict, answer.fake_probability, answer.doubts) == (
        before.verdict,
        before.fake_probability,
        before.doubts,
    )
    assert "the entry 'n4' of the bank 'onion' of known content (satire; 31 of 256 bits differ)" in answer.explanation


def test_banks_that_contradict_each_other_give_deepfake_and_a_doubt(judgement):
    answer = decide(judgement, observe(**REAL_PIXELS), REAL, FAKE, decides={"real": "real", "deepfake": "deepfake"})
    assert (answer.verdict, answer.doubts) == ("deepfake", ("known_otherwise",))
    assert "'election'" in answer.explanation


def test_a_policy_may_let_a_bank_acquit(judgement):
    answer = decide(judgement, observe(**FAKE_PIXELS | {"faces": ()}), REAL, decides={"real": "real"})
    assert (answer.verdict, answer.confidence) == ("real", "high")
    assert answer.fake_probability == pytest.approx(0.001)
    assert "by its pixels alone it counts as a deepfake" in answer.explanation
    face = decide(judgement, observe(**FAKE_PIXELS), REAL, decides={"real": "real"})
    assert (face.verdict, face.doubts) == ("real", ("face_against_verdict",))


def test_a_policy_may_let_nothing_decide(judgement):
    answer = decide(judgement, observe(**REAL_PIXELS), FAKE, decides={})
    assert (answer.verdict, answer.known_content.decides) == ("real", False)
    assert "known_otherwise" in answer.doubts


def test_known_content_survives_json_and_the_record_its_wire_form(judgement):
    answer = decide(judgement, observe(**REAL_PIXELS), FAKE, SATIRE)
    assert Verdict.from_json(answer.to_json()) == answer
    seen = replace(observe(), pdq=PDQ, pdq_quality=64)
    again = Observation.from_bytes(seen.to_bytes())
    assert (again.pdq, again.pdq_quality) == (PDQ, 64)


@pytest.mark.parametrize("matches", [(), (FAKE,), (REAL,), (REAL, FAKE), (SATIRE,)])
def test_answers_with_known_content_can_be_replayed(judgement, seen, matches):
    versions = ModelVersions("a", "b", judgement.calibration.version, policy=judgement.policy.version)
    answer = fuse(seen, replace(judgement, models=versions), "r", known(*matches))
    again = Verdict.from_json(answer.to_json())
    assert replay_verdict(again, judgement.calibration, judgement.policy) == []


def test_answers_of_servers_without_known_content_are_read(judgement, seen):
    document = json.loads(fuse(seen, judgement).to_json())
    del document["known_content"]
    assert Verdict.from_json(json.dumps(document)).known_content is None


def test_a_policy_without_the_entry_has_the_defaults(judgement):
    assert judgement.policy.known_content == KnownContentPolicy(31, 50, {"deepfake": "deepfake"}, 0.999)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": 32}, "distance must be a whole number from 0 to 31"),
        ({"distance": 1.5}, "distance must be a whole number"),
        ({"quality": True}, "quality must be a whole number"),
        ({"decides": {"satire": "maybe"}}, "decides must map"),
        ({"decides": ["deepfake"]}, "decides must map"),
        ({"probability": 0.6}, r"probability must lie between 0\.6 and 1"),
        ({"probability": 1.0}, "probability must lie between"),
        ({"distanse": 3}, "unexpected keyword argument 'distanse'"),
    ],
)
def test_damaged_entries_of_the_policy_are_refused(tmp_path, calibration, change, message):
    (tmp_path / "policy.json").write_text(json.dumps(merged(POLICY_DOCUMENT, {"known_content": change})))
    with pytest.raises(ValueError, match=message):
        load_policy(tmp_path / "policy.json", calibration)


def test_the_entry_is_written_as_it_is_read(tmp_path, judgement):
    rules = KnownContentPolicy(12, 80, {"satire": "real"}, 0.9)
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(to_document(replace(judgement.policy, known_content=rules))))
    assert load_policy(path, judgement.calibration).known_content == rules
