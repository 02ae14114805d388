"""The GPU check without a GPU: its arithmetic, its report, failing steps, and engines on a fake device.

Fakes replace what needs a device (CUDA's driver, TensorRT's runtime); the real parts have to be run on a GPU.
"""

import onnx
import pytest
from onnx import helper

from veridict.deploy.command import main
from veridict.deploy.launcher import Installation, LaunchError
from veridict.export.convert.engines import EngineError
from veridict.export.convert.parity import Parity
from veridict.forensics import signature as sig
from veridict.loadtests.gpu import cli as gpu_check
from veridict.loadtests.gpu import report as gpu_report
from veridict.loadtests.gpu.cli import CheckSettings, Step, StepSkippedError
from veridict.loadtests.gpu.matrix_rate import MatrixRate
from veridict.loadtests.gpu.report import EngineRate, Findings, Gpu, StepOutcome

from .conftest import graph_of

L4 = Gpu("NVIDIA L4", "8.9", "580.10", "23034 MiB")


class TestSteps:
    def test_a_step_that_raises_is_reported_and_the_others_go_on(self):
        done = []

        def broken():
            raise EngineError("no room")

        def skipped():
            raise StepSkippedError("not served: no backend")

        steps = [
            Step("first", lambda: done.append("first") or "fine"),
            Step("second", broken),
            Step("third", lambda: done.append("third") or "fine", ("first",)),
            Step("fourth", lambda: done.append("never") or "", ("second",)),
            Step("fifth", skipped),
            Step("sixth", lambda: "", ("fifth",)),
        ]
        said = []
        outcomes = gpu_check.run_steps(steps, said.append)
        assert done == ["first", "third"]
        assert [(o.outcome, o.failed) for o in outcomes] == [
            ("fine", False),
            ("FAILED: EngineError: no room", True),
            ("fine", False),
            ("not run: needs second", True),
            ("not served: no backend", False),
            ("not run: needs fifth", True),
        ]
        assert "second: FAILED: EngineError: no room" in said

    def test_the_plan_names_every_engine_and_measures_fp8_only_where_it_is(self):
        plan = gpu_check.plan_steps(Findings([L4]), CheckSettings(), lambda text: None)
        rates = [f"rate of {name}" for name in sig.ENGINES]
        names = ["GPU", "matrix rate fp16", "matrix rate fp8", "engines and parity", *rates, "serving"]
        assert [step.name for step in plan] == names
        old = Gpu("Tesla T4", "7.5", "580.10", "15360 MiB")
        plan = gpu_check.plan_steps(Findings([old, old]), CheckSettings(), lambda text: None)
        assert "matrix rate fp8" not in [step.name for step in plan]
        assert plan[0].action().endswith("; measured on the first of 2")

    def test_engines_are_measured_at_every_batch(self, pretended, monkeypatch, tmp_path):
        path, device = pretended
        folder = tmp_path / "face_cnn" / "1"
        folder.mkdir(parents=True)
        path.rename(folder / "model.plan")
        nodes = [helper.make_node("MatMul", ["X", "w"], ["Y"])]
        graph = graph_of(nodes, {"X": ["batch", 3]}, {"Y": ["batch", 1]}, {"w": [3, 1]})
        onnx.save(graph, folder / "model.fp16.onnx")
        model = sig.Model("face_cnn", (sig.Tensor("X", "UINT8", (3,)),), (sig.Tensor("Y", "FP32", (1,)),), 64)
        monkeypatch.setitem(sig.MODELS, "face_cnn", model)
        monkeypatch.setattr(gpu_check, "Device", lambda: device)
        findings, settings = Findings([L4]), CheckSettings(tmp_path, 0.001)
        plan = {step.name: step for step in gpu_check.plan_steps(findings, settings, lambda text: None)}
        assert "at batch 64" in plan["rate of face_cnn"].action()
        assert [r.batch for r in findings.rates] == list(gpu_check.BATCHES)
        assert [r.flops for r in findings.rates] == [6 * b for b in gpu_check.BATCHES]
        assert not device.blocks

    def test_parities_of_the_engines_come_last_of_each_network(self):
        def note(model, output, precision):
            return Parity(model, output, precision, 8, 1.0, 0.0, 1.0)

        parities, engines = [], []
        for name in sig.ENGINES:
            for precision in ("fp32", "fp16", "engine"):
                made = [note(name, t.name, precision) for t in sig.MODELS[name].outputs]
                parities += made
                engines += made if precision == "engine" else []
        assert gpu_check.engine_parities(parities) == engines


class TestServing:
    @pytest.mark.parametrize("bundled", [True, False])
    def test_a_triton_without_the_backend_is_said(self, tmp_path, monkeypatch, bundled):
        binary = tmp_path / "bin" / "tritonserver"
        binary.parent.mkdir()
        binary.touch()
        installation = Installation(binary, tmp_path if bundled else None)
        monkeypatch.setattr(gpu_check, "find_triton", lambda: installation)
        with pytest.raises(StepSkippedError, match=r"not served: the .* has no TensorRT backend"):
            gpu_check.measure_serving(Findings([L4]), CheckSettings(tmp_path))
        (tmp_path / "backends" / "tensorrt").mkdir(parents=True)
        assert gpu_check.missing_backend(installation) == ""

    def test_the_embedded_triton_has_none(self):
        pytest.importorskip("pytriton")
        from veridict.deploy.launcher import find_triton

        installation = find_triton()
        if installation.bundled is None:
            pytest.skip("another tritonserver stands on PATH")
        assert "embedded Triton wheel has no TensorRT backend" in gpu_check.missing_backend(installation)

    def test_no_triton_at_all_is_said(self, tmp_path, monkeypatch):
        def nothing():
            raise LaunchError("no tritonserver")

        monkeypatch.setattr(gpu_check, "find_triton", nothing)
        with pytest.raises(StepSkippedError, match="not served: no tritonserver"):
            gpu_check.measure_serving(Findings([L4]), CheckSettings(tmp_path))


class TestReport:
    def test_rates_have_their_share_of_the_chips_rate_at_that_precision(self):
        rate = EngineRate("clip_image", "fp16", 64, 8.0, 8.5, 9.25, 64 * 35 * 10**9)
        assert rate.images_per_second == 8000
        assert rate.tflops == pytest.approx(280)
        matrix = [MatrixRate("fp8", 1400.0, 8192, "x"), MatrixRate("fp16", 700.0, 8192, "x")]
        assert gpu_report.matrix_rate_share(rate, matrix) == pytest.approx(0.4)
        assert gpu_report.matrix_rate_share(rate, matrix[:1]) is None
        last = gpu_report.rate_table([rate], matrix).splitlines()[-1]
        assert last == "| clip_image | fp16 | 64 | 8000 | 8.50 | 9.25 | 280.00 | 40.0% |"
        assert gpu_report.rate_table([rate], []).endswith("| - |")

    def test_the_report_says_what_ran_where_and_leaves_out_empty_tables(self):
        outcomes = [
            StepOutcome("GPU", str(L4), 0.0),
            StepOutcome("engines", "FAILED: a | b\n" + "log\n" * 200, 1.25, True),
        ]
        text = gpu_report.to_markdown("veridict gpu-check", Findings([L4]), outcomes, "TensorRT 11.4")
        assert "`veridict gpu-check`" in text
        assert "NVIDIA L4, compute capability 8.9, driver 580.10, 23034 MiB" in text
        assert "Versions: TensorRT 11.4." in text
        assert "| engines | FAILED: a / b log log" in text
        assert max(map(len, text.splitlines())) < 400
        assert "## " not in text
        full = Findings([L4], parities=[Parity("face_cnn", "LOGIT", "fp16", 8, 0.99951, 0.01, 1.0)])
        full.rates.append(EngineRate("face_cnn", "fp16", 1, 1.0, 1.0, 1.0, 10**9))
        text = gpu_report.to_markdown("veridict gpu-check", full, outcomes, "TensorRT 11.4")
        assert "| face_cnn | LOGIT | fp16 | 0.999510 | 100.0% | 8 |" in text
        assert "## Engines" in text


class TestCommand:
    def test_without_a_gpu_one_sentence_and_status_2(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(gpu_check, "query_gpus", lambda what: [])
        monkeypatch.chdir(tmp_path)
        assert main(["gpu-check"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "no NVIDIA GPU: nothing was built or measured\n"
        assert not list(tmp_path.iterdir())

    def test_a_failing_step_is_in_the_report_and_the_status_is_1(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(gpu_check, "query_gpus", lambda what: ["NVIDIA L4, 8.9, 580.10, 23034 MiB"])

        def fail(*arguments):
            raise EngineError("tensorrt is not installed")

        monkeypatch.setattr(gpu_check, "build_engines", fail)
        monkeypatch.setattr(gpu_check, "measure_rate", lambda p, *rest: MatrixRate(p, 121.0, 8192, "a test"))
        output = tmp_path / "deep" / "GPU.md"
        words = ["--output", str(output), "--repository", str(tmp_path / "repository"), "--seconds", "0.5"]
        assert main(["gpu-check", *words]) == 1
        text = output.read_text()
        assert text.strip() == capsys.readouterr().out.strip()
        assert "`veridict gpu-check --seconds 0.5`" in text
        assert "| matrix rate fp8 | 121.0 TFLOP/s" in text
        assert "| engines and parity | FAILED: EngineError: tensorrt is not installed" in text
        assert "| serving | not run: needs engines and parity" in text
        assert str(tmp_path) not in text

    def test_all_well_is_status_0(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(gpu_check, "query_gpus", lambda what: ["NVIDIA L4, 8.9, 580.10, 23034 MiB"])
        monkeypatch.setattr(gpu_check, "plan_steps", lambda *rest: [Step("everything", lambda: "fine")])
        assert main(["gpu-check", "--output", str(tmp_path / "GPU.md")]) == 0
        assert "| everything | fine |" in capsys.readouterr().out

    def test_misuse_is_status_2(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["gpu-check", "--seconds", "0"])
        assert "is not above 0" in capsys.readouterr().err
