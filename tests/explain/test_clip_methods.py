"""Occlusion, and the two outputs of CLIP that are explained: its margin and the head on its class tokens."""

import json
import re
import shutil
import time

import numpy as np
import pytest
import torch

from veridict.deploy.manifest import default_repository, read_manifest
from veridict.explain.attribution import Budget, Cancellation
from veridict.explain.errors import ExplainError
from veridict.explain.methods import run_method
from veridict.explain.methods.background import background
from veridict.explain.methods.occlusion import COARSE, PATCH, STRIDE, grid
from veridict.explain.models import Models
from veridict.explain.subject import read_subject
from veridict.explain.torch_modules import TokenScore
from veridict.explain.weights import load_served_encoder
from veridict.forensics.token_head import TokenHead

from .known_models import Linear

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def subject(encode, cat):
    return read_subject(encode(cat))


@pytest.mark.parametrize("name", ["clip_occlusion", "tokens_occlusion"])
def test_occlusion_finds_the_only_region_that_matters(subject, name):
    weights = np.zeros((224, 224, 3), np.float32)
    weights[96:128, 64:96] = 1e-3
    models = Models(clip=Linear(weights), token_head=Linear(weights))
    result = run_method(name, subject, models, Budget(samples=200))
    inside = (subject.view[96:128, 64:96] - background(subject.view)[96:128, 64:96]).sum() * 1e-3
    y, x = np.unravel_index(np.abs(result.values).argmax(), result.values.shape)
    assert 96 <= y < 128
    assert 64 <= x < 96
    assert np.sign(result.values[y, x]) == np.sign(inside)
    assert abs(result.values).max() <= abs(inside) * 1.001
    assert np.abs(result.values[160:, 128:]).max() < 1e-4
    assert result.settings["stride"] == STRIDE
    assert run_method(name, subject, models, Budget(samples=40)).settings["stride"] > STRIDE


@pytest.mark.parametrize("positions", [1, 16, 20, 48, 81, 168, 169, 300, 1e9])
def test_a_grid_has_no_more_positions_than_the_budget(positions):
    patch, stride = grid(224, positions)
    assert (-(-(224 - patch) // stride) + 1) ** 2 <= max(positions, COARSE)
    assert patch >= stride  # nothing lies between two patches
    if positions >= 169:
        assert (patch, stride) == (PATCH, STRIDE)


class Slow(Linear):
    """Takes ``seconds`` per image, and from image ``late`` on ten times as long."""

    def __init__(self, seconds, late=10**6):
        super().__init__(np.ones((224, 224, 3)) * 1e-5)
        self.seconds, self.late, self.images = seconds, late, 0

    def forward(self, pixels):
        for _ in range(len(pixels)):
            self.images += 1
            time.sleep(self.seconds * (10 if self.images > self.late else 1))
        return super().forward(pixels)


def test_occlusion_on_a_slow_machine_has_a_coarser_map_and_ends_in_time(subject):
    result = run_method("tokens_occlusion", subject, Models(token_head=Slow(0.02)), Budget(), Cancellation(4.0))
    assert result.settings["stride"] > STRIDE
    assert result.seconds < 4.0


def test_occlusion_on_a_machine_that_becomes_slow_keeps_its_coarse_map(subject):
    models = Models(token_head=Slow(0.02, late=30))
    result = run_method("tokens_occlusion", subject, models, Budget(), Cancellation(4.0))
    assert (result.settings["patch"], result.settings["stride"]) == grid(224, COARSE)
    assert np.abs(result.values).max() > 0
    assert result.seconds < 4.0


def test_the_head_in_torch_has_the_scores_and_gradients_of_the_served_one():
    rng = np.random.default_rng(5)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 8), (6, 16), (30, 6), (30,))]
    mean, components, landmarks, weights = arrays
    head = TokenHead(mean, np.abs(mean) + 0.5, components, landmarks, weights, 0.02)
    module = TokenScore(lambda pixels: (None, pixels.reshape(-1, 2, 8)), head)
    tokens = rng.normal(size=(5, 2, 8)).astype(np.float32)
    found = module(torch.from_numpy(tokens))
    assert found.shape == (5, 1)
    assert np.allclose(found[:, 0].numpy(), head.score(tokens)[0], atol=1e-4)
    moved = torch.from_numpy(tokens[:1]).requires_grad_()
    module(moved).sum().backward()
    step = 1e-2 * rng.normal(size=tokens[:1].shape).astype(np.float32)
    change = head.score(tokens[:1] + step)[0] - head.score(tokens[:1] - step)[0]
    assert change[0] == pytest.approx(2 * float((moved.grad.numpy() * step).sum()), rel=0.02, abs=1e-4)


def test_a_calibration_without_a_head_leaves_nothing_to_explain(tmp_path):
    source = default_repository()
    (tmp_path / "fusion" / "1").mkdir(parents=True)
    shutil.copy(source / "manifest.json", tmp_path)
    document = json.loads((source / "fusion/1/calibration.json").read_text())
    document["clip"]["head_sha256"] = None
    for regime in document["fusion"]["regimes"].values():
        del regime["terms"]["tokens"]
    (tmp_path / "fusion/1/calibration.json").write_text(json.dumps(document))
    with pytest.raises(ExplainError, match="no head on CLIP's class tokens") as caught:
        _ = Models(repository=tmp_path).token_head
    assert caught.value.final
    (tmp_path / "fusion/1/calibration.json").write_text("{}")
    with pytest.raises(ExplainError) as caught:
        _ = Models(repository=tmp_path).token_head
    assert caught.value.code == "explain.model_unavailable"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["clip", "token_head"])
def test_the_bundled_clip_is_explained_by_its_own_outputs(subject, model):
    models = Models()
    name = {"clip": "clip_occlusion", "token_head": "tokens_occlusion"}[model]
    result = run_method(name, subject, models, Budget(samples=20))
    with torch.inference_mode():
        output = models.module(model)(torch.from_numpy(subject.view.copy()).float()[None])
        served = models.without_gradients(model)(torch.from_numpy(subject.view.copy())[None])
    assert output.shape == served.shape == (1, 1)
    assert result.score == pytest.approx(served.item(), abs=1e-5)
    rounding = {"clip": 0.4, "token_head": 0.15}[model]  # of 8-bit integers
    assert result.score == pytest.approx(output.item(), abs=rounding)
    assert result.region == subject.view_region


@pytest.fixture
def linked_repository(tmp_path):
    """The bundled repository as links to its files, so that a test can replace single ones."""
    source = default_repository()
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            (tmp_path / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(source)).symlink_to(path)
    return tmp_path


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.onnx", "model.w7a8.onnx"])
def test_a_graph_that_did_not_judge_is_not_explained(subject, linked_repository, file):
    graph = linked_repository / "clip_image/1" / file
    replace(graph, graph.read_bytes()[:-1] + b"x")
    with pytest.raises(ExplainError, match=re.escape(file)) as caught:
        run_method("tokens_occlusion", subject, Models(repository=linked_repository), Budget(samples=20))
    assert caught.value.code == "explain.model_unavailable"


def test_a_repository_with_only_engines_for_gpus_has_no_encoder_for_this_processor(linked_repository):
    manifest = linked_repository / "manifest.json"
    document = json.loads(manifest.read_text())
    document["networks"]["clip_image"]["graphs"] = {"gpu": "clip_image/1/model.onnx"}
    replace(manifest, json.dumps(document).encode())
    assert load_served_encoder(read_manifest(linked_repository), threads=1) is None
