"""Fusion and calibration: evidence sums to the answer, forensics never convict alone, files are checked."""

import json
import math

import numpy as np
import pytest

from veridict.deploy.repository import CALIBRATION, default_repository
from veridict.forensics.calibration import Percentiles, load_calibration
from veridict.forensics.contract import ImageFacts, ModelVersions, Signal, Verdict
from veridict.forensics.fusion import (
    Observation,
    PromptBank,
    face_share,
    fuse,
    read_signal,
    replay,
    sigmoid,
    softmax,
    weigh,
)
from veridict.forensics.measure import Measurement
from veridict.forensics.texture import SIZE

REGIME = {
    "bias": -1.0,
    "forensic_cap": 0.7,
    "terms": {
        "clip": {"weight": 1.0, "center": 0.0, "scale": 1.0},
        "clip_head": {"weight": 0.5, "center": 0.0, "scale": 1.0},
        "clip_layers": {"weight": 0.5, "center": 0.0, "scale": 1.0},
        "texture": {"weight": 0.5, "center": 0.0, "scale": 1.0},
        "face": {"weight": 1.5, "center": 0.0, "scale": 2.0},
        "ela": {"weight": 1.0, "center": 0.0, "scale": 0.5},
        "blur": {"weight": -1.0, "center": 0.0, "scale": 0.5},
        "noise": {"weight": 1.0, "center": 0.0, "scale": 0.5},
    },
}
DOCUMENT = {
    "schema": "veridict-calibration/1",
    "source": {"note": "made by hand for tests"},
    "threshold": 0.6,
    "band": [0.4, 0.75],
    "readings": {"low": 10, "high": 90},
    "fusion": {"close_up_share": 0.5, "close_up": {**REGIME, "bias": -0.8}, "general": REGIME},
    "clip": {
        "temperature": 1.0,
        "head": {"weights": [1.0, -1.0, 0.0], "bias": 0.1},
        "layers_head": {"weights": [1.0, 2.0], "bias": -0.2},
    },
    "texture": {"head": {"weights": [0.5] + [0.0] * 103, "bias": -0.5}},
    "percentiles": {
        name: {"edges": [300, 600], "values": [[0, 1, 2], [0, 10, 20], [0, 100, 200]]}
        for name in ("ela", "blur", "noise")
    },
}
TERM = ("weight", "center", "scale")
BANK = PromptBank(np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], ("landscape", "animal"), 5.0)
VERSIONS = ModelVersions("a", "b", "c")


@pytest.fixture
def calibration(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(DOCUMENT))
    return load_calibration(path)


def observe(embedding=(0.0, 1.0, 0.0), faces=(), side=500, texture=1.0, intermediates=(0.1, 0.2), **values):
    measurements = {n: Measurement(values.get(n, 10.0)) for n in ("ela", "blur", "noise")}
    for name, value in values.items():
        if value is None:
            measurements[name] = Measurement(None, "for a reason")
    boxes = [(i, 0, 10, 10) for i in range(len(faces))]
    facts = ImageFacts("0" * 64, "JPEG", side, side, 1000)
    vector = None if texture is None else np.r_[np.float32(texture), np.zeros(SIZE - 1, np.float32)]
    return Observation(
        "id",
        facts,
        measurements,
        np.array(embedding, np.float32),
        boxes,
        faces,
        {"decode": 1.0},
        vector,
        None if intermediates is None else np.array(intermediates, np.float32),
    )


def test_evidence_replays_to_the_same_probability(calibration):
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
            texture=rng.choice([None, rng.normal()]),
            intermediates=None if rng.random() < 0.3 else rng.normal(size=2),
        )
        verdict = Verdict.from_json(fuse(seen, BANK, calibration, VERSIONS).to_json())
        assert replay(verdict.evidence) == pytest.approx(verdict.fake_probability, abs=1e-6)
        assert (verdict.verdict == "deepfake") == (verdict.fake_probability >= calibration.threshold)
        assert (verdict.confidence == "low") == (0.4 <= verdict.fake_probability <= 0.75)


def test_forensic_evidence_alone_never_convicts(calibration):
    neutral = np.array([0.0, 0.0, 1.0])
    neutral[0] = neutral[1] = 0.0
    seen = observe(neutral, ela=1e6, blur=0.0, noise=1e6)
    verdict = fuse(seen, BANK, calibration, VERSIONS)
    total = sum(e.contribution for e in verdict.evidence if e.signal in ("ela", "blur", "noise"))
    assert total == pytest.approx(calibration.general.forensic_cap)
    assert verdict.verdict == "real"


def test_signals_that_do_not_apply_carry_no_weight(calibration):
    verdict = fuse(observe(ela=None), BANK, calibration, VERSIONS)
    assert "ela" not in {e.signal for e in verdict.evidence}
    assert verdict.forensics["ela"] == Signal(None, None, "", applicable=False, why_not="for a reason")
    assert "face" not in {e.signal for e in verdict.evidence}


def test_the_most_suspicious_face_counts(calibration):
    verdict = fuse(observe(faces=[-3.0, 2.0, 0.5]), BANK, calibration, VERSIONS)
    face = next(e for e in verdict.evidence if e.signal == "face")
    assert face.value == 2.0
    assert face.contribution == pytest.approx(1.5)
    assert [f.fake_probability for f in verdict.faces] == pytest.approx([sigmoid(v) for v in (-3.0, 2.0, 0.5)])


def test_close_ups_and_other_pictures_are_weighed_apart(calibration):
    biases = [
        next(e.contribution for e in fuse(seen, BANK, calibration, VERSIONS).evidence if e.signal == "prior")
        for seen in (observe(), observe(faces=[0.0]), observe(faces=[0.0], side=20), observe(faces=[0.0], side=21))
    ]
    assert biases == [-1.0, -1.0, -0.8, -1.0]
    assert face_share([(0, 0, 4, 6), (0, 0, 8, 2)], 16, 20) == 0.5
    assert face_share([], 16, 20) == 0.0


def test_middle_layers_count_by_their_head_and_not_where_there_are_none(calibration):
    verdict = fuse(observe(intermediates=(1.0, 0.5)), BANK, calibration, VERSIONS)
    item = next(e for e in verdict.evidence if e.signal == "clip_layers")
    assert item.value == pytest.approx(1.0 + 2.0 * 0.5 - 0.2)
    assert item.contribution == pytest.approx(0.5 * item.value)
    assert "fine structure" in item.text
    without = fuse(observe(intermediates=None), BANK, calibration, VERSIONS)
    assert "clip_layers" not in {e.signal for e in without.evidence}


def test_texture_counts_by_its_head_and_not_where_there_is_none(calibration):
    verdict = fuse(observe(texture=5.0), BANK, calibration, VERSIONS)
    item = next(e for e in verdict.evidence if e.signal == "texture")
    assert item.value == pytest.approx(2.0)
    assert item.contribution == pytest.approx(1.0)
    assert "texture" in item.text
    without = fuse(observe(texture=None), BANK, calibration, VERSIONS)
    assert "texture" not in {e.signal for e in without.evidence}


def test_category_and_clip_are_distributions(calibration):
    verdict = fuse(observe((0.0, 0.0, 1.0)), BANK, calibration, VERSIONS)
    assert verdict.category.label == "landscape"
    assert sum(verdict.category.scores.values()) == pytest.approx(1)
    assert verdict.clip.real + verdict.clip.deepfake == pytest.approx(1)


def test_explanations_name_the_reasons(calibration):
    verdict = fuse(observe((0.0, 1.0, 0.0), faces=[6.0], blur=0.1, noise=19.9), BANK, calibration, VERSIONS)
    assert verdict.verdict == "deepfake"
    assert "CLIP favoring 'deepfake'" in verdict.explanation
    assert "face" in verdict.explanation
    against = fuse(observe((1.0, 0.0, 0.0), faces=[3.0]), BANK, calibration, VERSIONS)
    assert "despite a face with traces" in against.explanation
    quiet = fuse(observe((0.0, 0.0, 1.0)), BANK, calibration, VERSIONS)
    assert "No signal speaks strongly" in quiet.explanation


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
    evidence = weigh({"ela": 1.0, "noise": 1.0}, signals, calibration.close_up)
    parts = [e for e in evidence if e.signal != "prior"]
    for item in parts:
        term = calibration.close_up.terms[item.signal]
        assert item.contribution == pytest.approx(item.weight * (1.0 - term.center) / term.scale)


def test_text_form_has_the_six_lines(calibration):
    lines = fuse(observe(ela=None, blur=None), BANK, calibration, VERSIONS).to_text().splitlines()
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


def test_documents_round_trip_and_foreign_ones_are_refused(calibration):
    verdict = fuse(observe(faces=[1.0]), BANK, calibration, VERSIONS)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "schema"),
        ({"threshold": 1.5}, "threshold"),
        ({"band": [0.7, 0.8]}, "band"),
        ({"fusion": DOCUMENT["fusion"] | {"close_up": {**REGIME, "forensic_cap": 99.0}}}, "alone could convict"),
        ({"fusion": DOCUMENT["fusion"] | {"general": {**REGIME, "bias": 3.0}}}, "alone could convict"),
        (
            {"fusion": DOCUMENT["fusion"] | {"close_up": {**REGIME, "terms": {"ela": dict.fromkeys(TERM, 0)}}}},
            "positive scale",
        ),
        ({"texture": {"head": {"weights": [1.0], "bias": 0}}}, "104 weights"),
        ({"percentiles": {"ela": {"edges": [1], "values": [[0, 1]]}}}, "size class"),
        ({"clip": {}}, "temperature"),
    ],
)
def test_damaged_calibrations_are_refused(tmp_path, change, message):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(ValueError, match=message):
        load_calibration(path)


def test_softmax_and_sigmoid_do_not_overflow():
    assert sigmoid(1e4) == 1.0
    assert sigmoid(-1e4) == 0.0
    assert softmax(np.array([1e4, 0.0])).tolist() == [1.0, 0.0]


def test_the_bundled_calibration_says_where_it_comes_from():
    calibration = load_calibration(default_repository() / CALIBRATION)
    assert calibration.source["images"]
    for regime in (calibration.close_up, calibration.general):
        needed = math.log(calibration.threshold / (1 - calibration.threshold)) - regime.bias
        assert 0 <= regime.forensic_cap < needed
