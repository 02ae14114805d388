"""Export: the bundled repository is what the bundled weights give, and wrong requests are refused."""

import numpy as np
import pytest

from veridict.client.cli import main
from veridict.deploy.repository import PROMPT_BANK, check_repository, default_repository
from veridict.export.assemble import ExportSettings, export_repository, retarget
from veridict.export.clip_model import load_clip
from veridict.export.face_cnn import FaceCNN, load_face_cnn
from veridict.export.onnx_export import ParityError, check_parity, example_pixels
from veridict.forensics import signature as sig

pytestmark = pytest.mark.export


def run(path, tensor, rows):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {tensor.name: rows})[0]


def test_exporting_the_bundled_weights_gives_the_bundled_repository(tmp_path):
    parities = export_repository(ExportSettings(output=tmp_path), progress=lambda text: None)
    assert {p.model for p in parities} == set(sig.ENGINES)
    assert min(p.lowest_cosine for p in parities) >= 0.999
    bundled, built = default_repository(), tmp_path
    assert set(check_repository(built, "cpu").files) == set(check_repository(bundled, "cpu").files)
    pixels = example_pixels(224, rows=5, seed=9).numpy()
    for name in ("clip_image", "face_cnn"):
        tensor = sig.MODELS[name].inputs[0]
        a, b = (run(root / name / "1" / "model.onnx", tensor, pixels) for root in (bundled, built))
        assert np.allclose(a, b, atol=2e-4)
    assert np.allclose(
        np.load(bundled / PROMPT_BANK)["embeddings"], np.load(built / PROMPT_BANK)["embeddings"], atol=1e-5
    )
    for path in bundled.rglob("*.pbtxt"):
        assert (built / path.relative_to(bundled)).read_text() == path.read_text()


def test_a_graph_that_computes_something_else_is_refused():
    path = default_repository() / "face_cnn" / "1" / "model.onnx"
    other = FaceCNN().eval()
    with pytest.raises(ParityError, match="cosine"):
        check_parity(other, example_pixels(224), sig.FACE_CNN, path)


def test_face_cnn_is_built_of_the_published_layers():
    from torch import nn

    kinds = {type(m) for m in FaceCNN().modules() if not list(m.children())}
    assert {nn.Conv2d, nn.Dropout, nn.Linear} <= kinds
    assert any(issubclass(k, nn.BatchNorm2d) for k in kinds)


def test_face_cnn_accepts_any_size_and_both_pixel_types():
    import torch

    model = load_face_cnn(ExportSettings(output=default_repository()).face_checkpoint)
    pixels = example_pixels(160)
    with torch.inference_mode():
        assert torch.allclose(model(pixels), model(pixels.float()))


def test_other_backbones_rewrite_the_dimensions(tmp_path):
    (tmp_path / "clip_image").mkdir()
    path = tmp_path / "clip_image" / "config.pbtxt"
    path.write_text((default_repository() / "clip_image" / "config.pbtxt").read_text())
    retarget(tmp_path, "EMBEDDING", (512,))
    assert "dims: [ 512 ]" in path.read_text()
    assert "dims: [ 224, 224, 3 ]" in path.read_text()


@pytest.mark.parametrize("name", ["no-such-model", "ViT-B-32"])
def test_unknown_or_weightless_backbones_are_refused(name):
    with pytest.raises(ValueError, match=r"open_clip knows no|names no weights"):
        load_clip(name)


def test_command_line(tmp_path, capsys):
    assert main(["export", "--check"]) == 0
    assert main(["export", "--check", "--output", str(tmp_path)]) == 1
    assert main(["export", "--output", str(tmp_path), "--face-checkpoint", str(tmp_path / "none")]) == 1
    captured = capsys.readouterr()
    assert "as the manifest says" in captured.out
    assert "manifest.json is missing" in captured.err
    assert "no checkpoint at" in captured.err


def test_graphs_name_nothing_of_the_machine_they_were_made_on():
    import onnx

    for name in sig.ENGINES:
        path = default_repository() / name / "1" / "model.onnx"
        assert b".py" not in path.read_bytes()
        assert not any(node.metadata_props or node.doc_string for node in onnx.load(path).graph.node)
