"""Export: the bundled repository is what the bundled weights give, and wrong requests are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from veridict.deploy.command import main
from veridict.deploy.manifest import DERIVED_FILES, FP16_GRAPH, INT8_GRAPH, default_repository
from veridict.deploy.repository import PROMPT_BANK, check_repository, load_judgement
from veridict.export.bundled import DATA
from veridict.export.convert.onnx_export import example_pixels, export_onnx
from veridict.export.convert.parity import ParityError, compare, run_graph
from veridict.export.convert.quantise import quantise
from veridict.export.convert.retarget import retarget
from veridict.export.convert.settings import ExportSettings
from veridict.export.models.clip_model import load_clip
from veridict.export.models.face_cnn import FaceCNN, load_face_cnn
from veridict.forensics import signature as sig

from .conftest import OLD, run_network

pytestmark = pytest.mark.export


@pytest.mark.slow
def test_exporting_the_bundled_weights_gives_the_bundled_repository(bundled_export):
    parities = [p for p in bundled_export.exported.parities if p.precision == "fp32"]
    assert {p.model for p in parities} == set(sig.ENGINES)
    assert min(p.lowest_cosine for p in parities) >= 0.999
    bundled, built = default_repository(), bundled_export.repository
    int8 = {f"face_cnn/1/{INT8_GRAPH}"}
    engines = {f"{n}/1/{file}" for n in sig.ENGINES for file in (FP16_GRAPH, "model.rtx")}
    expected = set(check_repository(bundled, "cpu").files) | (engines if bundled_export.with_engines else set())
    assert set(check_repository(built, "cpu").files) | int8 == expected
    old = [name for name in DERIVED_FILES if (built / "face_cnn/1" / name).exists()]
    assert OLD not in [(built / "face_cnn/1" / name).read_bytes() for name in old]
    pixels = example_pixels(224, rows=5, seed=9).numpy()
    for name in ("clip_image", "face_cnn"):
        tensor = sig.MODELS[name].inputs[0]
        a, b = (run_network(root / name / "1" / "model.onnx", tensor, pixels) for root in (bundled, built))
        assert np.allclose(a, b, atol=2e-4)
    assert np.allclose(
        np.load(bundled / PROMPT_BANK)["embeddings"], np.load(built / PROMPT_BANK)["embeddings"], atol=1e-5
    )
    for path in bundled.rglob("*.pbtxt"):
        assert (built / path.relative_to(bundled)).read_text() == path.read_text()


def test_a_graph_that_computes_something_else_is_refused():
    path = default_repository() / "face_cnn" / "1" / "model.onnx"
    import torch

    pixels = example_pixels(224)
    with torch.inference_mode():
        expected = [FaceCNN().eval()(pixels).numpy()]
    with pytest.raises(ParityError, match="cosine"):
        compare(sig.FACE_CNN, "fp32", expected, run_graph(path, sig.FACE_CNN, pixels.numpy()))
    with pytest.raises(ParityError, match="gives"):
        compare(sig.FACE_CNN, "fp32", [expected[0][:3]], run_graph(path, sig.FACE_CNN, pixels.numpy()))


@pytest.mark.slow
def test_int8_graphs_pass_their_gate_and_too_few_images_are_refused(tmp_path, faces):
    source, target = default_repository() / "face_cnn" / "1" / "model.onnx", tmp_path / "model.int8.onnx"
    (parity,) = quantise(source, sig.FACE_CNN, faces, target)
    assert parity.lowest_cosine >= 0.99
    assert parity.rows == len(faces) // 2
    assert target.stat().st_size < 0.75 * source.stat().st_size
    with pytest.raises(ValueError, match="at least 32"):
        quantise(source, sig.FACE_CNN, faces[:8], tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


@pytest.fixture(scope="module")
def half_precision(bundled_export, tmp_path_factory):
    """The face CNN's graph in half precision and its parity: the engine's where one was built."""
    if bundled_export.with_engines:
        found = [p for p in bundled_export.exported.parities if (p.model, p.precision) == (sig.FACE_CNN.name, "fp16")]
        return bundled_export.repository / "face_cnn/1" / FP16_GRAPH, found
    path = tmp_path_factory.mktemp("half") / "m.onnx"
    model = load_face_cnn(ExportSettings(output=path.parent).face_checkpoint)
    return path, export_onnx(model, example_pixels(224), sig.FACE_CNN, path, "fp16")


@pytest.mark.slow
def test_half_precision_graphs_compute_in_half_precision(half_precision):
    import onnx

    path, (parity,) = half_precision
    assert parity.lowest_cosine >= 0.999
    graph = onnx.load(path).graph
    weights = [t for t in graph.initializer if len(t.dims) == 4]
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}


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


@pytest.mark.slow
def test_prompts_alone_are_embedded_anew(tmp_path, capsys):
    repository = tmp_path / "repository"
    shutil.copytree(default_repository(), repository, ignore=shutil.ignore_patterns("__pycache__"))
    document = json.loads((DATA / "prompts.json").read_text())
    document["categories"] = {"kite": ["a kite in the sky"], "other": ["anything else"]}
    document["offsets"] = {"other": -0.5}
    (tmp_path / "prompts.json").write_text(json.dumps(document))
    before = (repository / "clip_image/1/model.onnx").stat().st_mtime_ns
    wanted = ["export", "--output", str(repository), "--prompts-only", "--prompts", str(tmp_path / "prompts.json")]
    assert main(wanted) == 0
    bank = load_judgement(repository).bank
    assert (bank.labels, bank.offsets) == (("kite", "other"), (0.0, -0.5))
    assert (repository / "clip_image/1/model.onnx").stat().st_mtime_ns == before
    check_repository(repository, "cpu")
    assert main([*wanted, "--random-weights"]) == 1
    assert "with other weights" in capsys.readouterr().err
    assert main([*wanted[:2], str(tmp_path / "nowhere"), *wanted[3:]]) == 1


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


@pytest.mark.slow
def test_the_face_finder_of_the_weights_is_the_one_that_is_served(tmp_path):
    import onnxruntime
    import torch

    from veridict.export.models.face_finder import export_face_finder, load_face_finder
    from veridict.forensics import faces

    export_face_finder(tmp_path / "finder.onnx")
    pixels = np.concatenate([example_pixels(320, rows=2).numpy()[:, :192]])
    with torch.inference_mode():
        expected = load_face_finder()(torch.from_numpy(pixels))
    for path in (tmp_path / "finder.onnx", Path(faces.__file__).parent / "data/face_finder.onnx"):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for a, b in zip(expected, session.run(None, {"PIXELS": pixels}), strict=True):
            assert a.shape == b.shape
            assert np.allclose(a.numpy(), b, atol=1e-3)
