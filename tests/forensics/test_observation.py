"""The record of an image survives its wire form exactly, and foreign bytes are refused."""

import numpy as np
import pytest
from safetensors.numpy import save

from veridict.forensics.contract import ImageFacts
from veridict.forensics.observation import Measurement, Observation
from veridict.forensics.preprocess import prepare


@pytest.fixture(scope="module")
def observation(encode, three_faces):
    prepared = prepare(encode(three_faces)).observation
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=8).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32))
    return prepared.with_scores(*scores, rng.normal(size=3).astype(np.float32), {"networks": 0.0123})


def same(a, b):
    arrays = ("embedding", "class_tokens")
    return {k: v for k, v in vars(a).items() if k not in arrays} == {
        k: v for k, v in vars(b).items() if k not in arrays
    } and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in arrays)


def test_the_wire_form_keeps_everything(observation):
    again = Observation.from_bytes(observation.to_bytes())
    assert len(again.boxes) == again.faces_found == 3
    assert again.timings_ms["networks"] == 12.3
    assert again.class_tokens.dtype == np.float32
    assert same(again, observation)


def test_a_record_without_scores_travels_too(encode, three_faces):
    prepared = prepare(encode(three_faces, "PNG")).observation
    again = Observation.from_bytes(prepared.to_bytes())
    assert again.measurements["ela"] == Measurement(None, "a PNG file carries no JPEG compression history")
    assert again.embedding is None
    assert again == again
    assert vars(again) == vars(prepared)


def test_a_face_has_one_logit(observation):
    with pytest.raises(ValueError, match="2 face logits for 3 faces"):
        observation.with_scores(observation.embedding, observation.class_tokens, [1.0, 2.0])


def test_foreign_bytes_are_refused(observation):
    record = {"record": np.frombuffer(b'{"image": {}}', np.uint8), "face_logits": np.zeros(0, np.float32)}
    wrong = Observation(ImageFacts("0", "PNG", 1, 1, 1), {}, face_logits=(1.0,), embedding=np.zeros(2, np.float32))
    for data in (
        b"",
        b"no observation",
        observation.to_bytes()[:-9],
        save(record),
        save({"x": np.zeros(1)}),
        wrong.to_bytes(),
    ):
        with pytest.raises(ValueError, match="not an observation"):
            Observation.from_bytes(data)
