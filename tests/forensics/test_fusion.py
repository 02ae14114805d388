"""Fusion, calibration and policy: evidence sums to the answer, forensics never convict alone, files are checked."""

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from veridict.forensics.calibration import Percentiles
from veridict.forensics.contract import Signal, Verdict
from veridict.forensics.doubts import WORDS
from veridict.forensics.fusion import face_share, fuse, list_evidence, read_signal, replay, softmax
from veridict.forensics.logits import sigmoid
from veridict.forensics.observation import Measurement
from veridict.forensics.sentences import explain

from .conftest import judge, observe


def test_evidence_replays_to_the_same_probability(judgement):
    rng = np.random.default_rng(0)
    for _ in range(200):
        embedding = rng.normal(size=3)
        seen = observe(
            embedding / np.linalg.norm(embedding),
            list(rng.normal(size=rng.integers(0, 4))),
            500,
            ela=rng.choice([None, 5.0, 19.0]),
            blur=rng.uniform(0, 25),
            noise=rng.uniform(0, 25),
            tokens=None if rng.random() < 0.3 else rng.normal(size=2),
        )
        verdict = Verdict.from_json(fuse(seen, judgement).to_json())
        assert replay(verdict.evidence) == pytest.approx(verdict.fake_probability, abs=1e-6)
        assert (verdict.verdict == "deepfake") == (verdict.fake_probability >= verdict.threshold == 0.6)
        assert (verdict.confidence == "low") == bool(verdict.doubts)
        low, high = (0.1, 0.9) if verdict.category.label == "animal" else (0.4, 0.75)
        assert ("near_threshold" in verdict.doubts) == (low <= verdict.fake_probability <= high)


def test_forensic_evidence_alone_never_convicts(judgement):
    verdict = judge(judgement, (0.0, 0.0, 1.0), ela=1e6, blur=0.0, noise=1e6, tokens=None)
    total = sum(e.contribution for e in verdict.evidence if e.signal in ("ela", "blur", "noise"))
    assert total == pytest.approx(judgement.policy.decisions["general"].forensic_cap)
    assert verdict.verdict == "real"


def test_signals_that_do_not_apply_carry_no_weight(judgement):
    verdict = judge(judgement, ela=None)
    assert "ela" not in {e.signal for e in verdict.evidence}
    assert verdict.forensics["ela"] == Signal(None, None, "", applicable=False, why_not="for a reason")
    assert "face" not in {e.signal for e in verdict.evidence}


def test_an_absent_signal_is_worth_as_much_as_an_average_one(judgement):
    for name in ("ela", "blur", "noise"):
        present = judge(judgement, **{name: 10.0})  # the median, where the terms' centers lie
        absent = judge(judgement, **{name: None})
        assert present.fake_probability == pytest.approx(absent.fake_probability, abs=1e-9)


def test_the_most_suspicious_face_counts_and_is_named(judgement):
    verdict = judge(judgement, faces=[-3.0, 3.0, 0.5])
    face = next(e for e in verdict.evidence if e.signal == "face")
    assert face.value == 3.0
    assert face.contribution == pytest.approx(2.25)
    assert "one of 3 faces at (6, 5)" in face.text
    assert "0.95" in face.text
    assert face.text in verdict.explanation
    assert [f.fake_probability for f in verdict.faces] == pytest.approx([sigmoid(v) for v in (-3.0, 3.0, 0.5)])


def test_a_face_called_fake_leaves_no_confident_real(judgement):
    alarm = math.log(0.97 / 0.03)
    for faces in ([alarm], [-4.0] * 29 + [alarm]):
        verdict = judge(judgement, (1.0, 0.0, 0.0), faces=faces, tokens=(1.0, 0.0))
        assert verdict.verdict == "real"
        assert verdict.confidence == "low"
        assert "face_against_verdict" in verdict.doubts
        assert "traces of generation or swapping (0.97)" in verdict.explanation
        assert "a person should look" in verdict.explanation
    assert "face_against_verdict" not in judge(judgement, faces=[-4.0]).doubts
    strictest = replace(judgement, policy=replace(judgement.policy, face=0.0))
    assert "face_against_verdict" in judge(strictest, (1.0, 0.0, 0.0), faces=[-40.0], tokens=(1.0, 0.0)).doubts
    assert "face_against_verdict" not in judge(strictest, (1.0, 0.0, 0.0), tokens=(1.0, 0.0)).doubts


def test_an_undecided_face_leaves_no_confident_real(judgement):
    """From ``undecided_face`` on (0.2 here) up to ``face`` (0.9), where the other doubt takes its place."""
    careful = replace(judgement, policy=replace(judgement.policy, undecided_face=0.2))
    for probability, holds in ((0.19, False), (0.21, True), (0.89, True), (0.91, False)):
        faces = [-4.0, math.log(probability / (1.0 - probability))]
        assert ("face_undecided" in judge(careful, (1.0, 0.0, 0.0), faces=faces, tokens=(1.0, 0.0)).doubts) == holds
        assert "face_undecided" not in judge(judgement, (1.0, 0.0, 0.0), faces=faces, tokens=(1.0, 0.0)).doubts
    fake = judge(careful, (0.0, 1.0, 0.0), faces=[0.0], tokens=(-1.0, 0.0))
    assert (fake.verdict, "face_undecided" in fake.doubts) == ("deepfake", False)


def test_faces_that_were_not_looked_at_are_counted(judgement):
    assert judge(judgement, faces=[0.0] * 32, found=40).faces_found == 40
    assert judge(judgement, faces=[0.0]).faces_found == 1


@pytest.mark.parametrize(
    ("named", "doubt"),
    [
        ({"side": 47}, "little_to_see"),
        ({"side": 1}, "little_to_see"),
        ({"tone": 0.0}, "little_to_see"),
        ({"frames": 2}, "animation"),
        ({"tokens": (-0.6, -0.8)}, None),
    ],
)
def test_doubts_are_named(judgement, named, doubt):
    verdict = judge(judgement, (1.0, 0.0, 0.0), **({"tokens": (1.0, 0.0)} | named))
    if doubt is None:
        assert "unusual_picture" in judge(load_scaled(judgement), (1.0, 0.0, 0.0), **named).doubts
    else:
        assert doubt in verdict.doubts
        assert verdict.confidence == "low"


def load_scaled(judgement):
    return replace(judgement, policy=replace(judgement.policy, unusual=1.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["embedding", "tokens", "faces"])
def test_a_score_that_is_no_finite_number_gives_no_verdict(judgement, place, value):
    scores = {"embedding": np.array([1.0, 0.0, 0.0]), "faces": [0.5], "tokens": np.ones(2)}
    for number in (0.25, value):
        scores[place] = np.full(np.shape(scores[place]), number)
        seen = observe(scores["embedding"], list(scores["faces"]), 500, tokens=scores["tokens"])
        if math.isfinite(number):
            assert fuse(seen, judgement).verdict
        else:
            with pytest.raises(ValueError, match="no finite number"):
                fuse(seen, judgement)


def test_close_ups_and_other_pictures_are_weighed_apart(judgement):
    verdicts = [
        fuse(seen, judgement)
        for seen in (observe(), observe(faces=[0.0]), observe(faces=[0.0], side=20), observe(faces=[0.0], side=21))
    ]
    biases = [next(e.contribution for e in v.evidence if e.signal == "prior") for v in verdicts]
    assert biases == [-1.0, -1.0, -0.8, -1.0]
    assert [v.threshold for v in verdicts] == [0.6, 0.6, 0.5, 0.6]
    assert face_share([(0, 0, 4, 6), (0, 0, 8, 2)], 16, 20) == 0.5
    assert face_share([], 16, 20) == 0.0


def test_class_tokens_count_by_their_head_and_not_where_there_are_none(judgement):
    verdict = judge(judgement, tokens=(0.6, 0.8))
    item = next(e for e in verdict.evidence if e.signal == "tokens")
    assert item.value == pytest.approx(3.0, abs=1e-4)  # at unit length, over 0.01, it is the first landmark
    assert item.contribution == pytest.approx(0.5 * item.value)
    assert "fine structure" in item.text
    without = judge(judgement, tokens=None)
    assert "tokens" not in {e.signal for e in without.evidence}


def test_category_and_clip_are_distributions(judgement):
    verdict = judge(judgement, (0.0, 0.0, 1.0))
    assert verdict.category.label == "landscape"
    assert sum(verdict.category.scores.values()) == pytest.approx(1)
    assert verdict.clip.real + verdict.clip.deepfake == pytest.approx(1)


def test_explanations_name_two_reasons_and_the_strongest_against(judgement):
    verdict = judge(judgement, (0.0, 1.0, 0.0), faces=[6.0], blur=0.1, noise=19.9)
    assert verdict.verdict == "deepfake"
    assert "CLIP favoring 'deepfake'" in verdict.explanation
    assert "face" in verdict.explanation
    against = judge(judgement, (1.0, 0.0, 0.0), faces=[2.0], tokens=(1.0, 0.0))
    assert "outweigh a face at (5, 5) with traces" in against.explanation
    quiet = judge(judgement, (0.0, 0.0, 1.0), tokens=None)
    assert quiet.explanation.startswith("No signal speaks for or against")


def test_no_sentence_contradicts_itself(judgement):
    """Every combination of strong, weak and absent evidence: reasons agree with the verdict, objections do not."""
    from veridict.forensics.contract import Evidence

    for parts in itertools.product((-2.0, -0.1, 0.0, 0.1, 2.0), repeat=3):
        evidence = [
            Evidence(name, 0.0, None, 1.0, part, f"<{name}{'+' if part > 0 else '-'}>")
            for name, part in zip(("clip", "tokens", "face"), parts, strict=True)
        ]
        for verdict in ("real", "deepfake"):
            sentence = explain(verdict, evidence)
            said = re.findall(r"<(\w+)([+-])>", sentence)
            strong = {name for name, part in zip(("clip", "tokens", "face"), parts, strict=True) if abs(part) > 1}
            assert {name for name, _ in said} <= strong
            before, _, after = sentence.partition(" outweigh")
            mine, theirs = ("+", "-") if verdict == "deepfake" else ("-", "+")
            if after:
                assert {sign for _, sign in re.findall(r"<(\w+)([+-])>", before)} == {mine}
                assert {sign for _, sign in re.findall(r"<(\w+)([+-])>", after)} == {theirs}
            elif "not enough" in sentence:
                assert {sign for _, sign in said} == {theirs}
            else:
                assert {sign for _, sign in said} <= {mine}
            assert ("No signal speaks" in sentence) == (not strong)


def test_every_doubt_has_words():
    for doubt in WORDS:
        sentence = explain("real", [], [doubt])
        assert sentence.endswith("a person should look") or doubt == "little_to_see"
    assert "nothing to see" in explain("real", [], ["little_to_see"])


def test_readings_follow_the_percentile_of_the_size_class(calibration):
    for side, value, reading in ((200, 1.95, "high"), (500, 1.95, "low"), (500, 10.0, "normal"), (900, 199.0, "high")):
        signal = read_signal("noise", Measurement(value), side, calibration)
        assert signal.reading == reading, (side, value, signal)


def test_percentiles_interpolate_and_saturate():
    table = Percentiles((100.0,), ((0.0, 10.0, 20.0), (0.0, 1.0, 2.0)))
    assert [table.percentile(v, 50) for v in (-5, 0, 5, 15, 99)] == [0, 0, 25, 75, 100]
    assert table.percentile(1.0, 100) == 50


def test_weights_report_what_was_applied(calibration):
    signals = {n: Signal(1.0, 100.0, "high", applicable=True) for n in ("ela", "noise")}
    evidence = list_evidence({"ela": 1.0, "noise": 1.0}, signals, calibration.regimes["close_up"], 0.7)
    parts = [e for e in evidence if e.signal != "prior"]
    for item in parts:
        term = calibration.regimes["close_up"].terms[item.signal]
        assert item.contribution == pytest.approx(item.weight * (1.0 - term.center) / term.scale)


def test_text_form_has_the_six_lines(judgement):
    lines = judge(judgement, ela=None, blur=None).to_text().splitlines()
    names = [line.split(":")[0].strip() for line in lines]
    assert names == [
        "Image Category",
        "CLIP Prediction",
        "Blur Score",
        "Noise Residual Mean",
        "Final Verdict",
        "Explanation",
    ]
    assert "n/a (for a reason)" in lines[2]


def test_documents_round_trip_and_foreign_ones_are_refused(judgement):
    verdict = judge(judgement, faces=[1.0])
    document = json.loads(verdict.to_json())
    assert next(iter(document)) == "schema"
    assert Verdict.from_json(verdict.to_json()) == verdict
    document["a_later_field"] = 1
    assert Verdict.from_json(json.dumps(document)) == verdict
    for bad in (
        "[]",
        "{}",
        '{"schema": "veridict/2"}',
        '{"schema": "veridict/1"}',
        "no json",
        '{"schema": "veridict/1", "image": 3}',
    ):
        with pytest.raises(ValueError, match=r"veridict/1|Expecting"):
            Verdict.from_json(bad)


def test_a_suspect_face_that_fills_the_picture_is_weighed_by_itself(judgement):
    """What CLIP says does not outvote the face CNN there: a swapped face in a real frame looks real to CLIP."""
    real_to_clip = {"embedding": (1.0, 0.0, 0.0), "tokens": (1.0, 0.0), "side": 100, "box": 60}
    assert judge(judgement, faces=[3.9], **real_to_clip).verdict == "real"
    verdict = judge(judgement, faces=[-1.0, 4.2], **real_to_clip)
    assert verdict.verdict == "deepfake"
    (prior, face) = verdict.evidence
    assert prior.contribution == 0.0
    assert face.contribution == pytest.approx(1.5 + 0.5 * 0.2)
    assert verdict.explanation.startswith("One of 2 faces at (31, 30) with traces")
    assert judge(judgement, faces=[4.2], side=500).threshold == judgement.policy.decisions["general"].threshold
    below = judgement.calibration.regimes["suspect"].terms["face"]
    assert (below.contribution(3.0), below.slope(3.0)) == (1.5, 0.0)


def test_softmax_and_sigmoid_do_not_overflow():
    assert sigmoid(1e4) == 1.0
    assert sigmoid(-1e4) == 0.0
    assert softmax(np.array([1e4, 0.0])).tolist() == [1.0, 0.0]
