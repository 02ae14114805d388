"""The matrix rate and the engine runner, on a pretended device."""

import numpy as np
import onnx
import pytest

from veridict.export.convert import engine_run
from veridict.export.convert.engine_run import Device, LoadedEngine
from veridict.export.convert.engines import EngineError, EngineSettings
from veridict.loadtests.gpu import cli as gpu_check
from veridict.loadtests.gpu import matrix_rate
from veridict.loadtests.gpu.flops import count_flops


class TestMatrixRate:
    def test_the_rate_is_the_median_of_groups_that_run_back_to_back(self):
        launched, groups = [], []
        slow = iter([False, False, True, False, False, False, False])

        def clock(work):
            before = len(launched)
            work()
            groups.append(len(launched) - before)
            return (len(launched) - before) * (9.0 if next(slow) else 2.0)

        assert matrix_rate.time_back_to_back(lambda: launched.append(1), clock, seconds=1.0) == 2.0
        assert groups == [1, 3, *[100] * 5]

    def test_rates_are_operations_per_second(self):
        assert matrix_rate.tflops(2 * 8192**3, 1.4) == pytest.approx(785.4, abs=0.1)

    @pytest.mark.parametrize(("capability", "found"), [("7.5", 1), ("8.6", 1), ("8.9", 2), ("12.0", 2), ("[N/A]", 1)])
    def test_fp8_is_measured_where_the_chip_has_it(self, capability, found):
        assert matrix_rate.measured_precisions(capability) == ("fp16", "fp8")[:found]

    @pytest.mark.parametrize("precision", ["fp16", "fp8"])
    def test_the_product_is_a_valid_graph_of_known_size(self, precision):
        graph = matrix_rate.product_graph(precision, 64)
        onnx.checker.check_model(graph, full_check=True)
        assert count_flops(graph, 64) == 2 * 64**3

    @pytest.mark.parametrize("precision", ["fp16", "fp8"])
    def test_tensorrt_rtx_builds_the_product_with_no_gpu(self, precision, tmp_path):
        pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
        settings = EngineSettings("tensorrt-rtx", target="sm89")
        path, built = matrix_rate.build_product(precision, tmp_path, settings)
        assert path.stat().st_size == built.bytes > 0
        assert (built.target, built.layers) == ("sm89", 1 if precision == "fp16" else 4)

    def test_operands_are_random_and_finite(self):
        half = matrix_rate.operand("fp16", 64, 0)
        assert half.dtype == np.float16
        assert 0.9 < half.astype(np.float32).std() < 1.1
        eighth = matrix_rate.operand("fp8", 64, 0)
        torch = pytest.importorskip("torch")
        values = torch.from_numpy(eighth).view(torch.float8_e4m3fn).float()
        assert values.isfinite().all()
        assert 1.5 < values.abs().max() < 2.0
        assert values.min() < 0 < values.max()

    @pytest.mark.parametrize("precision", ["fp16", "fp8"])
    def test_pytorch_computes_both_products(self, precision):
        pytest.importorskip("torch")
        rate = matrix_rate.rate_by_torch(precision, 0.01, side=32, device="cpu")
        assert rate.tflops > 0
        assert rate.through.startswith("PyTorch")

    def test_without_cuda_in_pytorch_the_product_is_an_engine(self, monkeypatch, tmp_path):
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(matrix_rate, "rate_by_tensorrt", lambda *arguments: arguments)
        assert matrix_rate.measure_rate("fp16", tmp_path, 1.0) == ("fp16", tmp_path, 1.0)


class TestLoadedEngine:
    def test_outputs_are_those_of_the_rows_given_last(self, pretended):
        path, device = pretended
        with LoadedEngine(path, device) as engine:
            for rows in (2, 64, 1):
                given = np.arange(3 * rows, dtype=np.uint8).reshape(rows, 3)
                engine.give({"X": given})
                engine.launch()
                found = engine.take()["Y"]
                assert found.dtype == np.float32
                assert found[:, 0].tolist() == given.sum(axis=1).tolist()
            assert len(device.blocks) == 2
        assert not device.blocks

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"Z": np.zeros((1, 3), np.uint8)}, "takes X, not Z"),
            ({"X": np.zeros((1, 4), np.uint8)}, r"the shape \(1, 4\)"),
            ({"X": np.zeros((65, 3), np.uint8)}, r"the shape \(65, 3\)"),
            ({"X": np.zeros((1, 3), np.float32)}, "not float32"),
        ],
    )
    def test_wrong_inputs_are_named(self, pretended, values, message):
        path, device = pretended
        with LoadedEngine(path, device) as engine, pytest.raises(EngineError, match=message):
            engine.give(values)

    def test_an_engine_of_another_gpu_is_named(self, pretended):
        path, device = pretended
        path.write_bytes(b"other")
        with pytest.raises(EngineError, match="does not load on this GPU"):
            LoadedEngine(path, device)

    def test_no_driver_is_said(self):
        with pytest.raises(EngineError, match="no usable CUDA driver"):
            Device("libcuda-is-not-here.so")

    def test_one_run(self, pretended, monkeypatch):
        path, device = pretended
        monkeypatch.setattr(engine_run, "Device", lambda: device)
        assert engine_run.run_once(path, {"X": np.full((2, 3), 5, np.uint8)})["Y"].tolist() == [[15.0], [15.0]]
        assert not device.blocks


def test_latencies_are_of_launches_that_wait():
    taken, p50, p99 = gpu_check.time_launches(lambda: None, lambda work: (work(), 3.0)[1], seconds=0.001)
    assert taken <= 3.0
    assert 0 <= p50 <= p99
