"""Calibration, policy and token head are checked when they are read; every damage is named."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from veridict.deploy.manifest import default_repository
from veridict.deploy.repository import load_judgement
from veridict.forensics.calibration import HEAD_FILE, load_calibration
from veridict.forensics.policy import load_policy, to_document
from veridict.forensics.token_head import load_token_head

from .conftest import GONE, HEAD, POLICY_DOCUMENT, REGIME, merged, write

TERM = ("weight", "center", "scale")


def regime(**change):
    return {"fusion": {"regimes": {"general": change}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "veridict-calibration/2"}, "schema 'veridict-calibration/2'"),
        (regime(terms={"ela": dict.fromkeys(TERM, 0)}), "positive scale"),
        (regime(terms={"elan": dict.fromkeys(TERM, 1)}), "unknown term 'elan'"),
        (regime(terms={"ela": {"wieght": 1}}), "unknown entry 'wieght'"),
        (regime(bias=float("nan")), "must be finite"),
        ({"fusion": {"regimes": {"general": GONE}}}, "regimes must be general"),
        ({"fusion": {"regimes": {"other": REGIME}}}, "regimes must be general"),
        ({"percentiles": {"ela": {"edges": [1], "values": [[0, 1]]}}}, "size class"),
        ({"percentiles": {"ela": {"edges": [], "values": [[0]]}}}, "size class"),
        ({"percentiles": {"ela": {"edges": [], "values": [[1, 0]]}}}, "must not fall"),
        ({"percentiles": {"ela": {"edges": [], "values": [[0, float("inf")]]}}}, "must be finite"),
        ({"percentiles": {"blur": GONE}}, "no percentiles of the signal 'blur': run veridict calibrate"),
        ({"percentiles": {"moire": {"edges": [], "values": [[0, 1]]}}}, "unknown signal: 'moire'"),
        ({"percentiles": []}, "no veridict-calibration/3"),
        ({"readings": {"low": 95}}, "low <= high"),
        ({"clip": {"head_sha256": None}}, "'tokens' needs a head"),
        ({"clip": {"head_sha256": "0" * 64}}, "not the head"),
        ({"clip": {"temperature": "warm"}}, "warm"),
        ({"clip": {"temperature": 0}}, "must be positive"),
    ],
)
def test_damaged_calibrations_are_refused(tmp_path, change, message):
    path = write(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        load_calibration(path)


def test_a_missing_head_is_named(tmp_path):
    path = write(tmp_path)
    (tmp_path / HEAD_FILE).unlink()
    with pytest.raises(ValueError, match="is missing in the same folder"):
        load_calibration(path)


def bands(**change):
    return {"confidence": {"bands": change}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other"}, "schema 'other'"),
        ({"decisions": {"general": {"threshold": 1.5}}}, "threshold must lie inside"),
        ({"decisions": {"general": {"forensic_cap": 99.0}}}, "alone could convict in the regime general"),
        ({"decisions": {"general": {"threshold": 0.2}}}, "alone could convict"),
        ({"decisions": {"general": {"cap": 1.0}}}, "unexpected keyword argument 'cap'"),
        ({"decisions": {"suspect": GONE}}, "decisions are needed for"),
        ({"decisions": {"moon": {"threshold": 0.5, "forensic_cap": 0.1}}}, "decisions are needed for"),
        (bands(artwork=GONE), "'artwork' does not fit"),
        (bands(**{"close-up": GONE}), "'close-up' does not fit"),
        (bands(moon=[0.1, 0.2]), "'moon' does not fit"),
        (bands(other=[0.7, 0.6]), "inside 0..1"),
        ({"confidence": {"face": 1.5}}, "inside 0..1"),
        ({"confidence": {"undecided_face": -0.1}}, "inside 0..1"),
        ({"confidence": {"unusual": GONE}}, "unusual"),
        ({"confidence": {"little_to_see": {"tone": GONE}}}, "tone"),
        ({"confidence": []}, "no veridict-policy/1"),
    ],
)
def test_damaged_policies_are_refused(tmp_path, calibration, change, message):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(merged(POLICY_DOCUMENT, change)))
    with pytest.raises(ValueError, match=message):
        load_policy(path, calibration)


def test_a_policy_is_written_as_it_is_read(tmp_path, judgement):
    path = tmp_path / "again.json"
    path.write_text(json.dumps(to_document(judgement.policy)))
    assert replace(load_policy(path, judgement.calibration), version="") == replace(judgement.policy, version="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": np.zeros((2, 3), np.float32)}, "mean and scale"),
        ({"scale": np.zeros((2, 2), np.float32)}, "scales positive"),
        ({"components": np.zeros((2, 3), np.int8)}, r"components must be finite and of shape \[2, 4\], not \[2, 3\]"),
        ({"weights": np.array([1.0, np.nan, 0.0], np.float32)}, "weights must be finite"),
        ({"landmarks": np.zeros((3, 1), np.int8)}, "landmarks must be finite and of shape"),
        ({"gamma": np.array(0.0)}, "gamma is not positive"),
        ({"landmarks": np.zeros((0, 2), np.int8), "weights": np.zeros(0, np.float32)}, "no components or landmarks"),
        ({"landmark_steps": None}, "landmark_steps"),
    ],
)
def test_damaged_heads_are_refused(tmp_path, change, message):
    tensors = {k: v for k, v in (HEAD | change).items() if v is not None}
    save_file(tensors, tmp_path / HEAD_FILE)
    with pytest.raises(ValueError, match=message):
        load_token_head(tmp_path / HEAD_FILE)
    (tmp_path / HEAD_FILE).write_bytes(b"no head")
    with pytest.raises(ValueError, match="no token head"):
        load_token_head(tmp_path / HEAD_FILE)


def test_the_bundled_calibration_says_where_it_comes_from():
    judgement = load_judgement(default_repository())
    calibration, policy = judgement.calibration, judgement.policy
    assert calibration.source["images"]
    assert calibration.family == "ViT-B-16-quickgelu:openai"
    # The confidence of an answer never depends on what forensic signals alone can move.
    for kind, (low, high) in policy.bands.items():
        decision = policy.decide(kind)
        center = math.log(decision.threshold / (1 - decision.threshold))
        assert math.log(low / (1 - low)) <= center - 2 * decision.forensic_cap + 1e-9
        assert math.log(high / (1 - high)) >= center + 2 * decision.forensic_cap - 1e-9
