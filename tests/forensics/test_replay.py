"""Replay of stored answers: what fusion wrote is sound, what was changed afterwards is named."""

import dataclasses
import json

import pytest

from veridict.deploy.command import main
from veridict.deploy.manifest import default_repository
from veridict.export.pipeline import InProcessDetector
from veridict.forensics.contract import ModelVersions, Verdict
from veridict.forensics.fusion import fuse
from veridict.forensics.replay import replay_verdict

from .conftest import observe

OBSERVED = {
    "plain": {},
    "suspect close-up": {"faces": (6.0,), "box": 300},
    "close-up": {"faces": (-3.0,), "box": 300},
    "small faces": {"faces": (2.0, -1.0), "box": 20},
    "a signal that does not apply": {"ela": None},
    "extreme forensics": {"ela": 20.0, "blur": 0.0, "noise": 20.0},
    "nothing to see": {"tone": 0.0},
    "animation": {"frames": 3},
}


def judge(judgement, **seen):
    models = ModelVersions("a", "b", judgement.calibration.version, policy=judgement.policy.version)
    return fuse(observe(**seen), dataclasses.replace(judgement, models=models), "request-1")


def replay_stored(verdict, judgement, change=None):
    """Replay after a journey through JSON, with ``change`` applied to the document."""
    document = json.loads(verdict.to_json())
    if change:
        change(document)
    return [
        d.field
        for d in replay_verdict(Verdict.from_json(json.dumps(document)), judgement.calibration, judgement.policy)
    ]


@pytest.mark.parametrize("seen", OBSERVED.values(), ids=OBSERVED)
def test_an_answer_of_fusion_is_sound(judgement, seen):
    assert replay_stored(judge(judgement, **seen), judgement) == []


def _raise_probability(document):
    document["fake_probability"] += 1e-12


def _flip(document):
    document["verdict"] = "real" if document["verdict"] == "deepfake" else "deepfake"


def _soften_face(document):
    document["faces"][0]["fake_probability"] = 0.1


CHANGES = {
    "a probability in its last digits": (_raise_probability, "fake_probability"),
    "the verdict": (_flip, "verdict"),
    "the threshold": (lambda d: d.update(threshold=0.99), "threshold"),
    "confidence": (lambda d: d.update(confidence="high" if d["confidence"] == "low" else "low"), "confidence"),
    "a doubt taken away": (lambda d: d.update(doubts=[], confidence="high"), "doubts"),
    "the sentence": (lambda d: d.update(explanation="It looks fine."), "explanation"),
    "a contribution": (lambda d: d["evidence"][1].update(contribution=0.0), "evidence.clip.contribution"),
    "a value": (lambda d: d["evidence"][1].update(value=-9.0), "clip.deepfake"),
    "a term left out": (lambda d: d["evidence"].pop(2), "evidence"),
    "a term said twice": (lambda d: d["evidence"].append(d["evidence"][1]), "evidence"),
    "a term nobody knows": (lambda d: d["evidence"].append({**d["evidence"][1], "signal": "aura"}), "evidence"),
    "the measurement of a signal": (lambda d: d["forensics"]["ela"].update(value=19.0), "forensics.ela"),
    "the reading of a signal": (lambda d: d["forensics"]["ela"].update(reading="high"), "forensics.ela"),
    "a signal nobody knows": (lambda d: d["forensics"].update(aura=d["forensics"]["ela"]), "forensics.aura"),
    "the category": (lambda d: d["category"].update(label="nothing"), "category.label"),
    "the size of the picture": (lambda d: d["image"].update(width=5000), "forensics.ela"),
}


@pytest.mark.parametrize(("change", "field"), CHANGES.values(), ids=CHANGES)
def test_a_changed_answer_is_found_and_the_field_named(judgement, change, field):
    verdict = judge(judgement, faces=(0.2,), box=20, frames=2)
    assert field in replay_stored(verdict, judgement, change)


def test_a_changed_face_is_found(judgement):
    verdict = judge(judgement, faces=(6.0,), box=300)
    assert "evidence.face.value" in replay_stored(verdict, judgement, _soften_face)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"calibration": "0123456789ab"}, "judged by calibration 0123456789ab, this repository has"),
        ({"policy": "0123456789ab"}, "judged by policy 0123456789ab, this repository has"),
        ({"policy": ""}, "does not say which policy"),
    ],
)
def test_an_answer_of_another_calibration_is_refused(judgement, models, message):
    verdict = judge(judgement)
    verdict = dataclasses.replace(verdict, models=dataclasses.replace(verdict.models, **models))
    with pytest.raises(ValueError, match=message):
        replay_verdict(verdict, judgement.calibration, judgement.policy)


@pytest.fixture(scope="module")
def stored(networks, tmp_path_factory):
    """A file with answers of the bundled models, one per line as ``veridict detect --json`` writes."""
    import cv2
    from skimage import data

    detector = InProcessDetector(default_repository(), networks=networks)
    pictures = [data.astronaut(), data.coffee(), data.chelsea()]
    files = [cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes() for picture in pictures]
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    lines = [json.dumps({"path": "x.jpg", **json.loads(v.to_json())}) for v in detector.detect(files)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_command_replays_lines_of_the_bundled_models(stored, capsys):
    assert main(["replay", str(stored)]) == 0
    assert capsys.readouterr().out == "3 sound, 0 not\n"


def test_the_command_names_the_line_and_goes_on(stored, tmp_path, capsys):
    lines = stored.read_text().splitlines()
    first = json.loads(lines[0])
    first["fake_probability"] = 0.5
    refused = json.dumps({"path": "y.jpg", "error": {"code": "image.truncated", "message": "…"}})
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join([json.dumps(first), "{broken", refused, lines[1]]))
    assert main(["replay", str(path), str(tmp_path / "missing.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out == "1 sound, 4 not\n"
    assert f"{path}:1: fake_probability: the answer says 0.5" in printed.err
    assert f"{path}:3: no answer: the file was refused with image.truncated" in printed.err
    assert "missing.json: No such file" in printed.err
    assert "Traceback" not in printed.err


def test_an_empty_file_proves_nothing(tmp_path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    assert main(["replay", str(tmp_path / "empty.jsonl")]) == 1
