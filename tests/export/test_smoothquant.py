"""Integers for processors with AVX2 alone: they cannot overflow, and the graph needs no weights of its own."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.export.tiny_tower import BLOCKS, tiny_backbone
from veridict.deploy.manifest import W7A8_GRAPH, default_repository
from veridict.deploy.serving.onnx_network import OnnxNetwork
from veridict.export.convert import smoothquant
from veridict.export.convert.onnx_export import ImageEncoder, example_pixels, export_onnx
from veridict.export.convert.parity import ParityError
from veridict.forensics import signature as sig

LAYERS_PER_BLOCK = 6  # query, key, value, output, and two of the MLP


@pytest.fixture(scope="module")
def tiny_graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    export_onnx(ImageEncoder(tiny_backbone()), example_pixels(224, 2), sig.CLIP_IMAGE, path)
    return path


def weights_of(graph):
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    products = [n for n in graph.graph.node if n.op_type == "MatMulIntegerToFloat"]
    return [numpy_helper.to_array(stored[n.input[1]]) for n in products]


class TestAnyTower:
    def test_every_layer_that_reads_tokens_is_in_integers_that_cannot_overflow(self, tiny_graph, tmp_path):
        path = tmp_path / W7A8_GRAPH
        parities = smoothquant.write_w7a8(tiny_graph, sig.CLIP_IMAGE, path)
        weights = weights_of(onnx.load(path))
        assert len(weights) == LAYERS_PER_BLOCK * BLOCKS
        assert all(w.dtype == np.int8 and np.abs(w.astype(int)).max() == 64 for w in weights)
        assert 2 * 255 * 64 < 2**15
        assert {p.output for p in parities} == {"EMBEDDING", "INTERMEDIATES"}
        assert all(0.98 < p.lowest_cosine < 1 for p in parities)

    def test_a_few_huge_features_do_not_spoil_the_others(self, tmp_path):
        backbone = tiny_backbone()
        with torch.no_grad():
            for block in backbone.visual.transformer.resblocks:
                block.ln_1.weight[:2] *= 100
                block.ln_2.weight[:2] *= 100
                block.attn.in_proj_weight[:, :2] /= 100
                block.mlp[0].weight[:, :2] /= 100
        source = tmp_path / "model.onnx"
        export_onnx(ImageEncoder(backbone), example_pixels(224, 2), sig.CLIP_IMAGE, source)
        parities = smoothquant.write_w7a8(source, sig.CLIP_IMAGE, tmp_path / W7A8_GRAPH)
        assert min(p.lowest_cosine for p in parities) > 0.98

    def test_a_graph_too_far_from_its_source_is_not_written(self, tiny_graph, tmp_path, monkeypatch):
        monkeypatch.setattr(smoothquant, "_LARGEST_WEIGHT", 1)
        with pytest.raises(ParityError, match="w7a8 graph is below"):
            smoothquant.write_w7a8(tiny_graph, sig.CLIP_IMAGE, tmp_path / W7A8_GRAPH)
        assert list(tmp_path.iterdir()) == []

    def test_a_network_without_tokens_is_refused(self, tmp_path):
        class Pooled(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 8)

            def forward(self, pixels):
                pooled = self.layer(pixels.float().mean(dim=(1, 2)))
                return pooled, pooled[:, None]

        source = tmp_path / "model.onnx"
        export_onnx(Pooled(), example_pixels(224, 2), sig.CLIP_IMAGE, source)
        with pytest.raises(ValueError, match="no linear layer that is applied to tokens"):
            smoothquant.write_w7a8(source, sig.CLIP_IMAGE, tmp_path / W7A8_GRAPH)


def test_generated_images_have_the_spectrum_of_photographs():
    images = smoothquant.generated_images(8)
    assert images.shape == (8, 224, 224, 3)
    assert images.dtype == np.uint8
    power = np.abs(np.fft.fft2(images.mean(axis=3), axes=(1, 2))).mean(axis=0)
    low, high = power[1:5, 1:5].mean(), power[50:60, 50:60].mean()
    assert 10 < low / high < 1000


@pytest.mark.slow
class TestBundledTower:
    def test_the_bundled_graph_points_into_the_int8_weights(self):
        folder = default_repository() / sig.CLIP_IMAGE.name / "1"
        graph = onnx.load(folder / W7A8_GRAPH, load_external_data=False)
        products = [n for n in graph.graph.node if n.op_type == "MatMulIntegerToFloat"]
        assert len(products) == LAYERS_PER_BLOCK * 12
        external = [t for t in graph.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert len(external) == LAYERS_PER_BLOCK * 12 + 1
        assert all((folder / t.external_data[0].value).exists() for t in external)

    def test_exporting_again_gives_the_same_numbers(self, cat, tmp_path):
        from veridict.forensics.views import clip_view

        folder = default_repository() / sig.CLIP_IMAGE.name / "1"
        for path in folder.glob("*.safetensors"):
            shutil.copyfile(path, tmp_path / path.name)
        smoothquant.write_w7a8(folder / "model.onnx", sig.CLIP_IMAGE, tmp_path / W7A8_GRAPH)
        row = clip_view(cat)[None]
        bundled, again = (OnnxNetwork(place / W7A8_GRAPH, 1)(row) for place in (folder, tmp_path))
        for a, b in zip(bundled, again, strict=True):
            assert np.allclose(a, b, atol=1e-3)
