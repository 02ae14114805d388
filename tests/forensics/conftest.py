"""A calibration, a policy and a token head made by hand, whose answers are known."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from veridict.forensics.calibration import HEAD_FILE, load_calibration
from veridict.forensics.contract import ImageFacts, ModelVersions
from veridict.forensics.fusion import fuse
from veridict.forensics.judgement import Judgement, PromptBank
from veridict.forensics.observation import Measurement, Observation
from veridict.forensics.policy import load_policy

REGIME = {
    "bias": -1.0,
    "terms": {
        "clip": {"weight": 1.0, "center": 0.0, "scale": 1.0},
        "tokens": {"weight": 0.5, "center": 0.0, "scale": 1.0},
        "face": {"weight": 1.5, "center": 0.0, "scale": 2.0},
        "ela": {"weight": 1.0, "center": 0.0, "scale": 0.5},
        "blur": {"weight": -1.0, "center": 0.0, "scale": 0.5},
        "noise": {"weight": 1.0, "center": 0.0, "scale": 0.5},
    },
}


DOCUMENT = {
    "schema": "veridict-calibration/3",
    "source": {"note": "made by hand for tests"},
    "readings": {"low": 10, "high": 90},
    "fusion": {
        "close_up_share": 0.5,
        "suspect_logit": 4.0,
        "regimes": {
            "close_up": {**REGIME, "bias": -0.8},
            "suspect": {
                "bias": 0.0,
                "terms": {"face": {"weight": 0.5, "center": 4.0, "scale": 1.0, "weight_below": 0.0, "offset": 1.5}},
            },
            "general": REGIME,
        },
    },
    "kinds": {"animal": "artwork"},
    "clip": {"family": "made-up", "temperature": 1.0, "head_sha256": None},
    "percentiles": {
        name: {"edges": [300, 600], "values": [[0, 1, 2], [0, 10, 20], [0, 100, 200]]}
        for name in ("ela", "blur", "noise")
    },
}


POLICY_DOCUMENT = {
    "schema": "veridict-policy/1",
    "decisions": {
        "close_up": {"threshold": 0.5, "forensic_cap": 0.7},
        "suspect": {"threshold": 0.6, "forensic_cap": 0.2},
        "general": {"threshold": 0.6, "forensic_cap": 0.7},
    },
    "confidence": {
        "bands": {
            "close-up": [0.45, 0.55],
            "suspect close-up": [0.5, 0.7],
            "other": [0.4, 0.75],
            "artwork": [0.1, 0.9],
        },
        "face": 0.9,
        "unusual": 50.0,
        "little_to_see": {"side": 48, "aspect": 8, "tone": 4.0},
    },
}


BANK = PromptBank(np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], ("landscape", "animal"), 5.0)


VERSIONS = ModelVersions("a", "b", "c")


#: Two blocks of two features, of which the first block counts: 3 near (0.6, 0.8), -1 near (1, 0) and (-0.6, -0.8).
HEAD = {
    "mean": np.zeros((2, 2), np.float32),
    "scale": np.full((2, 2), 0.01, np.float32),
    "components": np.array([[100, 0, 0, 0], [0, 100, 0, 0]], np.int8),
    "component_steps": np.full(2, 0.01, np.float32),
    "landmarks": np.array([[60, 80], [100, 0], [-60, -80]], np.int8),
    "landmark_steps": np.ones(2, np.float32),
    "weights": np.array([3.0, -1.0, -1.0], np.float32),
    "gamma": np.array(0.01),
}


def merged(document, change):
    """Return a copy with every value of ``change`` put in its place; dictionaries are merged, None removes."""
    result = json.loads(json.dumps(document))
    for name, part in (change or {}).items():
        if part is GONE:
            del result[name]
        elif isinstance(part, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], part)
        else:
            result[name] = part
    return result


GONE = object()


def write(folder, change=None, head=HEAD):
    save_file(head, folder / HEAD_FILE)
    digest = hashlib.sha256((folder / HEAD_FILE).read_bytes()).hexdigest()
    document = merged(merged(DOCUMENT, {"clip": {"head_sha256": digest}}), change)
    (folder / "calibration.json").write_text(json.dumps(document))
    return folder / "calibration.json"


@pytest.fixture
def judgement(tmp_path):
    calibration = load_calibration(write(tmp_path))
    (tmp_path / "policy.json").write_text(json.dumps(POLICY_DOCUMENT))
    return Judgement(BANK, calibration, load_policy(tmp_path / "policy.json", calibration), VERSIONS)


@pytest.fixture
def calibration(judgement):
    return judgement.calibration


def observe(
    embedding=(0.0, 1.0, 0.0), faces=(), side=500, tokens=(0.6, 0.8), frames=1, found=0, tone=50.0, box=10, **values
):
    measurements = {n: Measurement(values.get(n, 10.0)) for n in ("ela", "blur", "noise")}
    for name, value in values.items():
        if value is None:
            measurements[name] = Measurement(None, "for a reason")
    return Observation(
        ImageFacts("0" * 64, "JPEG", side, side, 1000, frames),
        measurements,
        tuple((i, 0, box, box) for i in range(len(faces))),
        found,
        tone,
        {"decode": 1.0},
        np.array(embedding, np.float32),
        None if tokens is None else np.array([tokens, (1.0, 0.0)], np.float32) * 3,
        tuple(faces),
    )


def judge(judgement, *arguments, **named):
    return fuse(observe(*arguments, **named), judgement)
