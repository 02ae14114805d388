"""Policies by name: files that state what differs, their checks, labels, shadows, hot reload, and replay."""

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from veridict.forensics.calibration import HEAD_FILE
from veridict.forensics.contract import Verdict
from veridict.forensics.fusion import NOT_COUNTED, fuse
from veridict.forensics.fusion import replay as sum_evidence
from veridict.forensics.labels import LabelRule, embed_rules, read_rules, score_labels
from veridict.forensics.named_policies import SCHEMA, PolicyFilesError, judge, load_policies
from veridict.forensics.policy import KnownContentPolicy
from veridict.forensics.replay import replay_verdict
from veridict.forensics.word_pieces import MARKS, WordPieces

from .conftest import HEAD, observe, write

PIECES = WordPieces([*MARKS, "a", "cat", "dog", "photo", "of", *(f"##{c}" for c in "abc")])


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "policies"
    path.mkdir()
    return path


def put(folder, name, **document):
    (folder / f"{name}.json").write_text(json.dumps({"schema": SCHEMA, **document}))


def answer(folder, judgement, name, seen=None, **scores):
    policies = load_policies(folder, judgement, PIECES)
    return judge(seen or observe(), policies.find(name), policies, "id", lambda *_: None, **scores)


def test_without_a_name_the_answer_is_the_repositorys(folder, judgement):
    put(folder, "strict", decisions={"general": {"threshold": 0.9}})
    verdict = answer(folder, judgement, None)
    assert verdict == fuse(observe(), judgement, "id")
    assert (verdict.policy, verdict.labels, verdict.shadow) == ("", {}, ())
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_a_file_states_only_what_differs(folder, judgement):
    put(
        folder,
        "strict",
        decisions={"general": {"threshold": 0.9}},
        confidence={"bands": {"other": [0.1, 0.95]}, "face": 0.5},
        provenance={"ai": "never", "probability": {"signed": 0.98}},
        known_content={"distance": 20, "decides": {"real": "real"}},
    )
    policy, base = load_policies(folder, judgement).by_name["strict"].judgement.policy, judgement.policy
    assert policy.decisions["general"].threshold == 0.9
    assert policy.decisions["general"].forensic_cap == base.decisions["general"].forensic_cap
    assert policy.decisions["suspect"] == base.decisions["suspect"]
    assert policy.bands == {**base.bands, "other": (0.1, 0.95)}
    assert (policy.face, policy.unusual, policy.little_to_see) == (0.5, base.unusual, base.little_to_see)
    assert (policy.provenance.ai, policy.provenance.ai_edited) == ("never", base.provenance.ai_edited)
    assert policy.provenance.probability == {**base.provenance.probability, "signed": 0.98}
    assert policy.known_content == KnownContentPolicy(distance=20, decides={"real": "real"})
    assert policy.version != base.version


def test_a_threshold_changes_the_verdict_and_not_the_probability(folder, judgement):
    put(folder, "strict", decisions={"general": {"threshold": 0.998}})
    plain, strict = answer(folder, judgement, None), answer(folder, judgement, "strict")
    assert (plain.verdict, strict.verdict) == ("deepfake", "real")
    assert strict.fake_probability == plain.fake_probability
    assert (strict.policy, strict.models.policy != plain.models.policy) == ("strict", True)


def test_a_signal_that_does_not_count_is_listed_and_adds_nothing(folder, judgement):
    put(folder, "some", signals={"clip": False, "ela": False, "blur": True})
    verdict = answer(folder, judgement, "some")
    plain = {item.signal: item for item in answer(folder, judgement, None).evidence}
    items = {item.signal: item for item in verdict.evidence}
    assert list(items) == list(plain)
    for name in ("clip", "ela"):
        assert (items[name].contribution, items[name].weight, items[name].text) == (0.0, 0.0, NOT_COUNTED)
        assert items[name].value == plain[name].value
        assert NOT_COUNTED not in verdict.explanation
    assert items["tokens"] == plain["tokens"]
    assert verdict.fake_probability == sum_evidence(verdict.evidence) != sum_evidence(tuple(plain.values()))
    stored = Verdict.from_json(verdict.to_json())
    by = load_policies(folder, judgement).by_name["some"].judgement
    assert replay_verdict(stored, by.calibration, by.policy, by.ignored) == []
    assert replay_verdict(stored, by.calibration, by.policy) != []


BAD = {
    "no JSON": ("{", "bad.json: Expecting"),
    "another schema": ({"schema": "veridict-policy/1"}, "schema: must be"),
    "no object": ([], "schema: must be"),
    "an unknown entry": ({"thresholds": {}}, "thresholds: unknown entry; there are schema"),
    "an unknown entry below": ({"decisions": {"general": {"cap": 1}}}, "decisions.general.cap: unknown entry"),
    "an unknown kind": ({"confidence": {"bands": {"moon": [0, 1]}}}, "confidence.bands.moon: unknown entry"),
    "a string for a number": ({"confidence": {"face": "0.5"}}, 'confidence.face: must be a number, not "0.5"'),
    "a truth value for a number": ({"confidence": {"face": True}}, "confidence.face: must be a number"),
    "no number": ({"confidence": {"unusual": math.nan}}, "confidence.unusual: must be a number, not NaN"),
    "a number beyond floats": (
        f'{{"schema": "{SCHEMA}", "confidence": {{"face": 1{"0" * 400}}}}}',
        "bad.json: int too",
    ),
    "a number for an object": ({"decisions": 1}, "decisions: must be an object"),
    "a number for a string": ({"provenance": {"ai": 1}}, "provenance.ai: must be a string"),
    "half a band": ({"confidence": {"bands": {"other": [0.5]}}}, "confidence.bands.other: must be 2 numbers"),
    "a band upside down": ({"confidence": {"bands": {"other": [0.9, 0.1]}}}, "confidence.bands.other: an uncertain"),
    "a threshold out of range": ({"decisions": {"suspect": {"threshold": 1}}}, "decisions.suspect: the threshold"),
    "forensics that convict": ({"decisions": {"general": {"forensic_cap": 9}}}, "alone could convict in the regime"),
    "a verdict nobody gives": ({"known_content": {"decides": {"real": "maybe"}}}, "known_content.decides must map"),
    "an entry twice": (
        f'{{"schema": "{SCHEMA}", "signals": {{}}, "signals": {{}}}}',
        "signals: the entry is there twice",
    ),
    "an unknown signal": ({"signals": {"aura": False}}, "signals.aura: unknown signal; there are clip"),
    "half a signal": ({"signals": {"clip": 0.5}}, "signals.clip: must be true or false, not 0.5"),
    "signals as a list": ({"signals": ["clip"]}, "signals: must be an object"),
    "no signal": (
        {"signals": dict.fromkeys(("clip", "tokens", "face", "ela", "blur", "noise"), False)},
        "at least one",
    ),
    "a shadow of nobody": ({"shadows": ["moon"]}, "shadows: there is no policy 'moon' in the folder"),
    "a shadow of itself": ({"shadows": ["bad"]}, "shadows: must be at most 8 other policies"),
    "shadows as a string": ({"shadows": "moon"}, "shadows: must be a list"),
    "a calibration elsewhere": ({"calibration": "../x"}, "calibration: must be the name of a folder beside the file"),
    "no calibration": ({"calibration": "x"}, "calibration: there is no "),
    "labels as a list": ({"labels": []}, "labels: must be an object"),
    "a label of no text": ({"labels": {"cat": []}}, "labels.cat.prompts: must be a list of 1 to 32 texts"),
    "a label's name": ({"labels": {"Cat!": ["a cat"]}}, "labels.Cat!: a name has up to 64"),
    "an entry of a label": ({"labels": {"cat": {"prompts": ["a cat"], "than": 1}}}, "labels.cat.than: unknown entry"),
    "a label's threshold": (
        {"labels": {"cat": {"prompts": ["a cat"], "threshold": 1}}},
        "labels.cat.threshold: must be",
    ),
    "an empty text": ({"labels": {"cat": [" "]}}, "labels.cat.prompts: a text has 1 to 200 characters"),
    "a word nobody knows": ({"labels": {"cat": ["a zebra"]}}, "cannot read the word 'zebra'"),
    "a long text": ({"labels": {"cat": ["cat " * 40]}}, "is too long: it has more than 29 tokens"),
    "deep nesting": ("[" * 100_000, "recursion"),
}


@pytest.mark.parametrize(("document", "message"), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_used_is_named_with_entry_and_cause(folder, judgement, document, message):
    text = document if isinstance(document, str) else json.dumps(document)
    if isinstance(document, dict):
        text = json.dumps({"schema": SCHEMA, **document})
    (folder / "bad.json").write_text(text)
    with pytest.raises(PolicyFilesError) as caught:
        load_policies(folder, judgement, PIECES)
    (problem,) = caught.value.problems
    assert problem.startswith(str(folder / "bad.json"))
    assert message in problem


def test_every_bad_file_of_a_folder_is_named_and_other_files_are_left_alone(folder, judgement):
    for name in ("Upper", "one", "two"):
        put(folder, name, labels=3)
    put(folder, "good")
    (folder / "README.md").write_text("what these are")
    (folder / "..data").mkdir()
    with pytest.raises(PolicyFilesError) as caught:
        load_policies(folder, judgement)
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        str(folder / f"{name}.json") for name in ("Upper", "one", "two")
    ]
    for name in ("Upper", "one", "two"):
        (folder / f"{name}.json").unlink()
    assert set(load_policies(folder, judgement).by_name) == {"good"}


def test_labels_need_the_tokenizer_of_the_text_tower(folder, judgement):
    put(folder, "x", labels={"cat": ["a cat"]})
    with pytest.raises(PolicyFilesError, match="labels: the repository has no tokenizer for its text tower"):
        load_policies(folder, judgement, None)


def test_names_choose_and_unknown_ones_choose_nothing(folder, judgement):
    put(folder, "strict")
    policies = load_policies(folder, judgement)
    assert policies.find("strict").judgement.name == "strict"
    assert policies.find(None).judgement is judgement
    assert policies.find("") is policies.find("moon") is policies.find("default") is None
    put(folder, "default")
    policies = load_policies(folder, judgement)
    assert policies.find(None) is policies.find("default") is policies.by_name["default"]


def test_shadows_are_recorded_and_decide_nothing(folder, judgement):
    put(folder, "strict", decisions={"general": {"threshold": 0.998}}, shadows=["main"])
    put(folder, "main", shadows=["strict"])
    verdict, plain = answer(folder, judgement, "main"), answer(folder, judgement, None)
    assert (verdict.verdict, verdict.fake_probability) == (plain.verdict, plain.fake_probability)
    (shadow,) = verdict.shadow
    strict = answer(folder, judgement, "strict")
    assert (shadow.name, shadow.verdict, shadow.threshold) == ("strict", "real", 0.998)
    assert shadow.policy == strict.models.policy
    assert shadow.fake_probability == strict.fake_probability
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_a_candidate_calibration_judges_the_same_observation(folder, judgement):
    candidate = folder / "candidate"
    candidate.mkdir()
    write(candidate, {"fusion": {"regimes": {"general": {"bias": -2.0}}}})
    put(folder, "next", calibration="candidate")
    put(folder, "default", shadows=["next"])
    verdict = answer(folder, judgement, None)
    assert verdict.models.calibration == judgement.calibration.version
    (shadow,) = verdict.shadow
    by = load_policies(folder, judgement).by_name["next"].judgement
    assert shadow.calibration == by.calibration.version != judgement.calibration.version
    assert shadow.fake_probability == answer(folder, judgement, "next").fake_probability < verdict.fake_probability

    shutil.copy(folder.parent / "policy.json", candidate / "policy.json")
    assert load_policies(folder, judgement).by_name["next"].judgement.policy.decisions == judgement.policy.decisions
    write(candidate, {"clip": {"family": "another"}})
    with pytest.raises(PolicyFilesError, match="was fitted on another, not on made-up"):
        load_policies(folder, judgement)
    larger = {**HEAD, "mean": np.zeros((3, 2), np.float32), "scale": np.ones((3, 2), np.float32)}
    larger["components"] = np.zeros((2, 6), np.int8)
    save_file(larger, candidate / HEAD_FILE)
    with pytest.raises(PolicyFilesError, match="not the head that the calibration was fitted with"):
        load_policies(folder, judgement)
    digest = hashlib.sha256((candidate / HEAD_FILE).read_bytes()).hexdigest()
    path = write(candidate, head=larger)
    assert digest in path.read_text()
    with pytest.raises(PolicyFilesError, match=r"takes class tokens \(3, 2\)"):
        load_policies(folder, judgement)


def test_labels_are_shares_of_a_softmax_against_texts_or_categories(judgement):
    asked = []

    def embed(texts):
        asked.append(list(texts))
        axes = {"a cat": 0, "a dog": 1, "a photo of a cat": 0, "photo": 2}
        return 3.0 * np.eye(4, dtype=np.float32)[[axes[text] for text in texts]]

    rules = read_rules(
        {
            "cat": {"prompts": ["a cat", "a photo of a cat"], "against": ["a dog", "photo"], "threshold": 0.6},
            "dog": {"prompts": ["a dog"], "threshold": 0.6},
            "plain": ["a cat"],
        },
        PIECES,
    )
    assert rules[2] == LabelRule("plain", ("a cat",))
    labels = embed_rules(rules, embed)
    assert asked == [["a cat", "a photo of a cat", "a dog", "photo"]]
    image = np.array([0.8, 0.6, 0.0, 0.0], np.float32)
    scores = score_labels(labels, image, np.array([1.0, 2.0]), 5.0)
    e = math.exp
    assert scores["cat"].probability == pytest.approx(e(4) / (e(4) + e(3) + e(0)), rel=1e-6)
    assert scores["dog"].probability == pytest.approx(e(3) / (e(3) + e(1) + e(2)), rel=1e-6)
    assert scores["plain"].probability == pytest.approx(e(4) / (e(4) + e(1) + e(2)), rel=1e-6)
    assert [score.reached for score in scores.values()] == [True, True, False]
    assert (scores["cat"].threshold, scores["plain"].threshold) == (0.6, None)
    assert embed_rules((), embed) == ()


def test_labels_travel_with_the_verdict(folder, judgement):
    put(folder, "x", labels={"cat": ["a cat"]})
    labels = embed_rules(load_policies(folder, judgement, PIECES).by_name["x"].labels, lambda texts: np.eye(1, 3))
    scores = score_labels(labels, observe().embedding, np.zeros(2), 5.0)
    verdict = answer(folder, judgement, "x", labels=scores)
    assert verdict.labels == scores
    assert Verdict.from_json(verdict.to_json()) == verdict
