"""Another CLIP architecture becomes a repository that serves, with no code changed."""

import os
from dataclasses import dataclass

import numpy as np
import pytest

from veridict.client import DetectorClient
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.manifest import DERIVED_FILES, FP8_GRAPH
from veridict.deploy.policies import load_tokenizer
from veridict.deploy.repository import load_judgement
from veridict.export.convert.assemble import export_repository
from veridict.export.convert.engines import EngineSettings, build_engine
from veridict.export.convert.onnx_export import example_pixels
from veridict.export.convert.quantise import quantise_fp8
from veridict.export.convert.settings import ExportSettings
from veridict.forensics import signature as sig

from .conftest import leave_old_files, run_network

pytestmark = [pytest.mark.export, pytest.mark.slow, pytest.mark.no_cover]


@dataclass(frozen=True)
class Backbone:
    """An open_clip architecture: its embedding's length and its image tower's width."""

    name: str
    embedding: int
    channels: int


#: ViT-L/14 takes two minutes and 11 GB of memory on two cores, so it is exported only when asked for.
BACKBONES = [
    Backbone("ViT-B-32", 512, 768),
    pytest.param(
        Backbone("ViT-L-14", 768, 1024),
        marks=pytest.mark.skipif(
            "VERIDICT_TEST_LARGE" not in os.environ, reason="slow and large: set VERIDICT_TEST_LARGE=1 to run it"
        ),
    ),
]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name, scope="class", indirect=True)
class TestAnotherBackbone:
    """Untrained, at random weights: one command gives a repository that serves, with no code changed."""

    @pytest.fixture(scope="class")
    @staticmethod
    def backbone(request):
        return request.param

    @pytest.fixture(scope="class")
    @staticmethod
    def exported(backbone, tmp_path_factory):
        repository = tmp_path_factory.mktemp("vit")
        leave_old_files(repository)
        settings = ExportSettings(output=repository, clip=backbone.name, random_weights=True)
        return repository, export_repository(settings, progress=lambda text: None)

    def test_nothing_of_an_older_export_stays(self, exported):
        assert [name for name in DERIVED_FILES if (exported[0] / "face_cnn/1" / name).exists()] == []

    def test_shapes_and_parity(self, backbone, exported):
        repository, made = exported
        assert min(p.lowest_cosine for p in made.parities) >= 0.999
        assert f"dims: [ {backbone.embedding} ]" in (repository / "clip_image/config.pbtxt").read_text()
        assert "dims: [ 77 ]" in (repository / "clip_text/configs/cpu.pbtxt").read_text()
        assert load_tokenizer(repository).context == 77
        rows = run_network(
            repository / "clip_image/1/model.onnx", sig.CLIP_IMAGE.inputs[0], example_pixels(224, rows=3).numpy()
        )
        assert rows.shape == (3, backbone.embedding)
        intermediates = f"dims: [ 7, {backbone.channels} ]"  # the class tokens of seven blocks
        assert intermediates in (repository / "clip_image/config.pbtxt").read_text()
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)

    def test_clip_terms_fitted_on_another_model_are_left_out(self, backbone, exported):
        calibration = load_judgement(exported[0]).calibration
        assert calibration.head is None
        for regime in calibration.regimes.values():
            assert not {"clip", "tokens"} & set(regime.terms)
        assert f"not on {backbone.name}" in calibration.source["note"]

    def test_its_image_tower_becomes_an_engine(self, exported, tmp_path):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        graph = exported[0] / "clip_image/1/model.onnx"
        settings = EngineSettings("tensorrt-rtx", target="sm89")
        engine = build_engine(graph, sig.CLIP_IMAGE, (224, 224, 3), settings, tmp_path / "model.rtx")
        assert engine.layers > 500
        assert engine.bytes > 100e6

    def test_its_matrix_products_become_fp8(self, exported, faces, tmp_path):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        source, target = exported[0] / "clip_image/1/model.onnx", tmp_path / FP8_GRAPH
        parities = quantise_fp8(source, source, sig.CLIP_IMAGE, faces[:32], target)
        assert [p.precision for p in parities] == ["fp8", "fp8"]
        assert 0.99 <= min(p.lowest_cosine for p in parities) < 0.9999  # close, and really rounded
        settings = EngineSettings("tensorrt-rtx", target="sm89")
        engine = build_engine(target, sig.CLIP_IMAGE, (224, 224, 3), settings, tmp_path / "model.rtx")
        assert engine.bytes < 0.7 * source.stat().st_size  # a byte per weight of a product: the source has two

    @pytest.mark.live
    def test_it_is_served(self, exported, cat, encode):
        settings = ServerSettings(exported[0], grpc_port=0, http_port=0, metrics_port=0)
        with TritonServer(settings) as server, DetectorClient(server.url) as client:
            verdict = client.detect(encode(cat))
        assert {"clip", "tokens"}.isdisjoint(e.signal for e in verdict.evidence)
        assert verdict.category.label in verdict.category.scores
