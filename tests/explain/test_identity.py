"""Explanations are of the network that judged: its weights, its face, and a job key that says so."""

import json
import shutil

import numpy as np
import pytest
import torch

from veridict.deploy.manifest import default_repository, read_manifest, update_manifest
from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.job import Job, job_id
from veridict.explain.methods import run_method
from veridict.explain.models import Models, model_versions
from veridict.explain.subject import read_subject
from veridict.forensics.faces import crop_faces

pytestmark = pytest.mark.export


@pytest.fixture
def brightness_scorer():
    """A scorer for which the brighter crop is the more suspicious one; counts its calls."""

    def score(crops):
        score.calls += 1
        return crops.astype(np.float32).mean(axis=(1, 2, 3))

    score.calls = 0
    return score


@pytest.fixture
def one_bright_face(encode, three_faces):
    """Three faces; the one in the middle, which is no larger than the others, is the brightest."""
    image = three_faces.copy()
    width = image.shape[1] // 3
    for side in (image[:, :width], image[:, 2 * width :]):
        side[:] = (side * 0.8).astype(np.uint8)
    return encode(image)


def test_the_most_suspicious_face_is_explained(one_bright_face, brightness_scorer):
    subject = read_subject(one_bright_face, score_faces=brightness_scorer)
    scores = brightness_scorer(np.stack(crop_faces(subject.image, subject.boxes)))
    assert len(subject.boxes) == 3
    assert subject.face_index == int(scores.argmax())
    width = subject.image.width // 3
    assert width <= subject.box.x < 2 * width
    assert read_subject(one_bright_face, 2, brightness_scorer).face_index == 2


def test_no_face_is_scored_where_there_is_no_choice(encode, astronaut, brightness_scorer):
    subject = read_subject(encode(astronaut), score_faces=brightness_scorer)
    assert subject.face_index == 0
    run_method("noise", subject, Models(), Budget())
    assert brightness_scorer.calls == 0


def test_an_explanation_covers_that_face(one_bright_face):
    class Brightness(torch.nn.Module):
        def forward(self, pixels):
            return pixels.float().mean(dim=(1, 2, 3))[:, None]

    models = Models(face=Brightness())
    subject = read_subject(one_bright_face, score_faces=models.score_faces)
    result = run_method("saliency", subject, models, Budget())
    assert result.region == tuple(subject.face_region)
    width = subject.image.width // 3
    x, _, side, _ = result.region
    assert width < x + side // 2 < 2 * width


def test_the_weights_that_the_manifest_names_are_explained(other_repository):
    bundled, other = Models(), Models(repository=other_repository)
    assert other.versions["face_cnn"] != bundled.versions["face_cnn"]
    assert other.versions["clip"] == bundled.versions["clip"]
    assert not torch.equal(other.face.dense.weight, bundled.face.dense.weight)


def test_weights_that_did_not_judge_are_refused(other_repository):
    manifest = read_manifest(other_repository)
    (path,) = map(manifest.path, manifest.networks["face_cnn"].weight_files)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ExplainError, match=r"that judged are not in .*weights\.safetensors") as caught:
        _ = Models(repository=other_repository).face
    assert caught.value.code == "explain.model_unavailable"


def test_random_and_lost_clip_weights_are_named(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    for source, message in (
        ({"random_weights": True}, "random weights, which are not kept"),
        ({"clip": "ViT-B-32", "clip_checkpoint": str(tmp_path / "gone.pt")}, r"not in .*gone\.pt"),
    ):
        document = json.loads((default_repository() / "manifest.json").read_text())
        document["networks"]["clip_image"]["weights"] = "0" * 64
        (repository / "manifest.json").write_text(json.dumps({**document, "source": source}))
        with pytest.raises(ExplainError, match=message):
            _ = Models(repository=repository).clip


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("face_cnn/1/model.int8.onnx", {"face_cnn"}),
        ("clip_image/1/model.onnx", {"clip", "token_head"}),
        ("fusion/1/prompt_bank.npz", {"clip"}),
        ("fusion/1/policy.json", set()),
    ],
)
def test_a_job_key_changes_with_what_is_served(tmp_path, file, changed):
    repository = tmp_path / "repository"
    shutil.copytree(default_repository(), repository, ignore=shutil.ignore_patterns("__pycache__"))
    with (repository / file).open("ab") as stream:
        stream.write(b" ")
    update_manifest(repository)
    before, after = model_versions(), model_versions(repository)
    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("name", "changed"), [("face_finder", "face_cnn"), ("fusion/1/token_head.safetensors", "token_head")]
)
def test_a_job_key_changes_with_the_face_finder_and_with_the_head(tmp_path, name, changed):
    document = json.loads((default_repository() / "manifest.json").read_text())
    file = document["networks"][name]["graphs"]["cpu"] if name in document["networks"] else name
    assert file in document["files"]
    document["files"][file] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    before, after = model_versions(), model_versions(tmp_path)
    assert {model for model in before if before[model] != after[model]} == {changed}


def test_a_broken_manifest_is_a_typed_error(tmp_path):
    with pytest.raises(ExplainError, match=r"manifest\.json is missing") as caught:
        Models(repository=tmp_path)
    assert caught.value.code == "explain.model_unavailable"


def test_the_default_face_and_the_largest_are_two_jobs():
    keys = {job_id("ab" * 32, "saliency", "v", face) for face in (None, 0, 1)}
    assert len(keys) == 3
    for face in (None, 0, 4):
        job = Job.create("ab" * 32, "saliency", "v", face=face)
        assert Job.from_fields(job.id, job.to_fields()) == job
