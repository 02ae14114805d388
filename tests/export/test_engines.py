"""TensorRT engines and the graphs of lower precision that they are built from."""

import pytest

from veridict.deploy.manifest import FP8_GRAPH, default_repository
from veridict.deploy.repository import check_repository, engine_problems
from veridict.export.convert.assemble import export_repository
from veridict.export.convert.engines import EngineError, EngineSettings, build_engine, import_runtime, require_fp8
from veridict.export.convert.quantise import quantise_fp8
from veridict.export.convert.settings import ExportError, ExportSettings
from veridict.forensics import signature as sig

pytestmark = pytest.mark.export


class TestEngines:
    """TensorRT-RTX builds ahead of time with no GPU: every network is really converted here."""

    @pytest.mark.slow
    def test_all_three_networks_become_engines_from_their_fp16_graphs(self, bundled_export):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        exported = bundled_export.exported
        assert [e.model for e in exported.engines] == list(sig.ENGINES)
        assert all(e.target == "sm89" and e.layers > 50 for e in exported.engines)
        fp16 = [p for p in exported.parities if p.precision == "fp16"]
        assert [(p.model, p.output) for p in fp16] == [(n, t.name) for n in sig.ENGINES for t in sig.MODELS[n].outputs]
        assert min(p.lowest_cosine for p in fp16) >= 0.999
        assert any("building face_cnn" in text for text in bundled_export.steps)
        manifest = check_repository(bundled_export.repository, "cpu")
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
        with pytest.raises(EngineError, match=r"sm89 and later do|this machine has none"):
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


def test_engines_of_another_gpu_are_named():
    engine = {"model": "face_cnn", "file": "model.plan", "target": "sm80", "compatible": False}
    assert engine_problems({"engines": [engine]}, "sm90") == [
        "face_cnn/1/model.plan was built for sm80, this GPU is sm90"
    ]
    for gpu in ("sm80", ""):
        assert engine_problems({"engines": [engine]}, gpu) == []
    assert engine_problems({"engines": [engine | {"compatible": True}]}, "sm90") == []
