"""The GPU check without a GPU: its arithmetic, its report, what it does when a step fails; engines on a pretended one.

What needs the device itself (CUDA's driver, TensorRT's runtime) is stood in for here and has to be run on a GPU.
"""

import ctypes
import types

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from veridict.deploy.command import main
from veridict.deploy.launcher import Installation, LaunchError
from veridict.deploy.repository import default_repository
from veridict.export.convert import engine_run
from veridict.export.convert.engine_run import Device, LoadedEngine
from veridict.export.convert.engines import EngineError, EngineSettings
from veridict.export.convert.parity import Parity
from veridict.forensics import signature as sig
from veridict.loadtests.gpu import cli as gpu_check
from veridict.loadtests.gpu import findings as gpu_findings
from veridict.loadtests.gpu import matrix_rate
from veridict.loadtests.gpu.cli import CheckSettings, SkippedError, Step
from veridict.loadtests.gpu.findings import EngineRate, Findings, Gpu, Outcome
from veridict.loadtests.gpu.flops import count_flops
from veridict.loadtests.gpu.matrix_rate import MatrixRate

L4 = Gpu("NVIDIA L4", "8.9", "580.10", "23034 MiB")


def graph_of(nodes, inputs, outputs, stored=()):
    value = helper.make_tensor_value_info
    given = [value(n, TensorProto.FLOAT, dims) for n, dims in inputs.items()]
    made = [value(n, TensorProto.FLOAT, dims) for n, dims in outputs.items()]
    weights = [numpy_helper.from_array(np.zeros(d, np.float32), n) for n, d in dict(stored).items()]
    body = helper.make_graph(nodes, "test", given, made, weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


@pytest.fixture
def network():
    """Convolution, flattening, Gemm with a transposed weight, MatMul: one image of 3 x 8 x 8 at a time."""
    nodes = [
        # stride 2, padded: result [N, 4, 4, 4], each value sums over 3 x 3 x 3
        helper.make_node("Conv", ["x", "kernel"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        # 2 groups: result [N, 6, 4, 4], each value sums over 2 x 1 x 1
        helper.make_node("Conv", ["a", "grouped"], ["b"], group=2),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "dense", "bias"], ["d"], transB=1),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("MatMul", ["e", "last"], ["y"]),
    ]
    stored = {"kernel": [4, 3, 3, 3], "grouped": [6, 2, 1, 1], "dense": [10, 96], "bias": [10], "last": [10, 5]}
    return graph_of(nodes, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 5]}, stored)


class TestFlops:
    def test_products_and_convolutions_count_two_per_multiply_add(self, network):
        by_hand = 2 * (4 * 4 * 4 * 27 + 6 * 4 * 4 * 2 + 96 * 10 + 10 * 5)
        assert count_flops(network) == by_hand
        assert count_flops(network, batch=8) == 8 * by_hand

    def test_a_file_is_read_without_changing_it(self, network, tmp_path):
        onnx.save(network, tmp_path / "m.onnx")
        before = (tmp_path / "m.onnx").read_bytes()
        assert count_flops(tmp_path / "m.onnx") == count_flops(network)
        assert (tmp_path / "m.onnx").read_bytes() == before

    def test_attention_counts_both_its_products(self):
        nodes = [
            helper.make_node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", ["q", "t"], ["s"]),
            helper.make_node("MatMul", ["s", "v"], ["y"]),
        ]
        shape = ["batch", 12, 197, 64]
        model = graph_of(nodes, {"q": shape, "k": shape, "v": shape}, {"y": shape})
        assert count_flops(model, 2) == 2 * 2 * 12 * 2 * 197 * 197 * 64

    def test_a_transposed_left_operand_sums_over_its_first_dimension(self):
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)]
        model = graph_of(nodes, {"x": [7, 3]}, {"y": [3, 5]}, {"w": [7, 5]})
        assert count_flops(model, 7) == 2 * 3 * 5 * 7

    def test_shapes_between_the_nodes_are_taken_from_the_exporter_where_a_target_is_computed(self):
        value = helper.make_tensor_value_info
        nodes = [
            helper.make_node("Reshape", ["x", "target"], ["a"]),
            helper.make_node("MatMul", ["a", "w"], ["y"]),
        ]
        model = graph_of(nodes, {"x": ["batch", 2, 4]}, {"y": ["2*batch", 3]}, {"w": [4, 3]})
        model.graph.input.append(value("target", TensorProto.INT64, [2]))
        with pytest.raises(ValueError, match="the shape of 'a' at MatMul"):
            count_flops(model, 5)
        model.graph.value_info.append(value("a", TensorProto.FLOAT, ["2*batch", 4]))
        assert count_flops(model, 5) == 2 * 10 * 4 * 3

    def test_products_under_other_names_are_refused_rather_than_left_out(self):
        nodes = [helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,ij->bj")]
        with pytest.raises(ValueError, match="Einsum"):
            count_flops(graph_of(nodes, {"x": ["batch", 3]}, {"y": ["batch", 5]}, {"w": [3, 5]}))

    def test_the_served_face_cnn_counts_as_pytorch_counts_it(self):
        torch = pytest.importorskip("torch")
        from torch.utils.flop_counter import FlopCounterMode

        from veridict.export.bundled import FACE_WEIGHTS
        from veridict.export.models.face_cnn import load_face_cnn

        network = load_face_cnn(FACE_WEIGHTS).eval()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, sig.FACE_SIZE, sig.FACE_SIZE, 3, dtype=torch.uint8))
        assert count_flops(default_repository() / "face_cnn" / "1" / "model.onnx") == counter.get_total_flops()


def test_vit_b_16_counts_what_is_known_of_it():
    """Patch embedding and twelve blocks of width 768 on 197 tokens; torchvision lists 17.56 billion multiply-adds."""
    tokens, width = ["batch", 197, 768], 768
    nodes = [helper.make_node("Conv", ["pixels", "patches"], ["p"], strides=[16, 16])]
    nodes += [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
    split = helper.make_tensor("split", TensorProto.INT64, [4], [0, 0, 12, 64])
    for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}r"]))
        nodes.append(helper.make_node("Transpose", [f"{name}r"], [f"{name}h"], perm=order))
    join = helper.make_tensor("join", TensorProto.INT64, [3], [0, 0, 768])
    nodes += [
        helper.make_node("MatMul", ["qh", "kh"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"]),
        helper.make_node("MatMul", ["attention", "vh"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "join"], ["joined"]),
        helper.make_node("MatMul", ["joined", "wo"], ["o"]),
        helper.make_node("MatMul", ["o", "up"], ["u"]),
        helper.make_node("MatMul", ["u", "down"], ["y"]),
    ]
    stored = {f"w{n}": [width, width] for n in "qkvo"} | {"up": [width, 3072], "down": [3072, width]}
    stored |= {"patches": [width, 3, 16, 16]}
    inputs = {"pixels": ["batch", 3, 224, 224], "x": tokens}
    model = graph_of(nodes, inputs, {"y": tokens, "p": ["batch", width, 14, 14]}, stored)
    model.graph.initializer.extend([split, join])
    patches = 2 * 196 * width * 768
    tower = patches + 12 * (count_flops(model) - patches)
    assert tower == pytest.approx(2 * 17.56e9, rel=0.001)


class TestMatrixRate:
    def test_the_rate_is_the_median_of_groups_that_run_back_to_back(self):
        launched, groups = [], []
        slow = iter([False, False, True, False, False, False, False])

        def clock(work):
            before = len(launched)
            work()
            groups.append(len(launched) - before)
            return (len(launched) - before) * (9.0 if next(slow) else 2.0)

        assert matrix_rate.repeat_until(lambda: launched.append(1), clock, seconds=1.0) == 2.0
        assert groups == [1, 3, *[100] * 5]

    def test_rates_are_operations_per_second(self):
        assert matrix_rate.tflops(2 * 8192**3, 1.4) == pytest.approx(785.4, abs=0.1)

    @pytest.mark.parametrize(("capability", "found"), [("7.5", 1), ("8.6", 1), ("8.9", 2), ("12.0", 2), ("[N/A]", 1)])
    def test_fp8_is_measured_where_the_chip_has_it(self, capability, found):
        assert matrix_rate.precisions(capability) == ("fp16", "fp8")[:found]

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


class HostDevice:
    """Stands in for :class:`Device`: its memory is the host's, and every launch takes a millisecond."""

    stream = 77

    def __init__(self):
        self.blocks = {}

    def allocate(self, size):
        block = np.zeros(size, np.uint8)
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address):
        del self.blocks[address]

    def upload(self, address, values):
        self.blocks[address][: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)

    def download(self, address, values):
        ctypes.memmove(values.ctypes.data, address, values.nbytes)

    def synchronise(self):
        pass

    def clock(self, work):
        work()
        return 1.0

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class DType:
    def __init__(self, kind):
        self.kind, self.itemsize = kind, np.dtype(kind).itemsize


class Context:
    """An execution context of an engine X uint8 [-1, 3] -> Y float32 [-1, 1], the sum of each row."""

    def __init__(self):
        self.addresses, self.shape = {}, None

    def set_input_shape(self, name, shape):
        self.shape = shape
        return name == "X" and len(shape) == 2 and shape[1] == 3 and 1 <= shape[0] <= 64

    def get_tensor_shape(self, name):
        return self.shape if name == "X" else (self.shape[0], 1)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == HostDevice.stream
        rows = self.shape[0]
        given = np.frombuffer((ctypes.c_uint8 * (3 * rows)).from_address(self.addresses["X"]), np.uint8)
        made = given.reshape(rows, 3).sum(axis=1).astype(np.float32)
        ctypes.memmove(self.addresses["Y"], made.ctypes.data, made.nbytes)
        return True


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """A runtime with the part of TensorRT's API that is used, the file of an engine, and the device it runs on."""
    types_of = {"X": DType(np.uint8), "Y": DType(np.float32)}
    engine = types.SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda i: "XY"[i],
        get_tensor_mode=lambda n: "in" if n == "X" else "out",
        get_tensor_dtype=types_of.__getitem__,
        create_execution_context=Context,
    )
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    runtime = type(
        "Runtime",
        (),
        {
            "__init__": lambda self, log: None,
            "deserialize_cuda_engine": lambda self, data: engine if data == b"engine" else None,
        },
    )
    module = types.SimpleNamespace(
        Logger=logger,
        Runtime=runtime,
        TensorIOMode=types.SimpleNamespace(INPUT="in"),
        nptype=lambda dtype: dtype.kind,
        __version__="11.4.0",
    )
    monkeypatch.setattr(engine_run, "import_runtime", lambda name: module)
    path = tmp_path / "model.plan"
    path.write_bytes(b"engine")
    return path, HostDevice()


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


class TestSteps:
    def test_a_step_that_raises_is_reported_and_the_others_go_on(self):
        done = []

        def broken():
            raise EngineError("no room")

        def skipped():
            raise SkippedError("not served: no backend")

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
        with pytest.raises(SkippedError, match=r"not served: the .* has no TensorRT backend"):
            gpu_check.serve(Findings([L4]), CheckSettings(tmp_path))
        (tmp_path / "backends" / "tensorrt").mkdir(parents=True)
        assert gpu_check.lacking_backend(installation) == ""

    def test_the_embedded_triton_has_none(self):
        pytest.importorskip("pytriton")
        from veridict.deploy.launcher import find_triton

        installation = find_triton()
        if installation.bundled is None:
            pytest.skip("another tritonserver stands on PATH")
        assert "embedded Triton wheel has no TensorRT backend" in gpu_check.lacking_backend(installation)

    def test_no_triton_at_all_is_said(self, tmp_path, monkeypatch):
        def nothing():
            raise LaunchError("no tritonserver")

        monkeypatch.setattr(gpu_check, "find_triton", nothing)
        with pytest.raises(SkippedError, match="not served: no tritonserver"):
            gpu_check.serve(Findings([L4]), CheckSettings(tmp_path))


class TestReport:
    def test_rates_have_their_share_of_the_chips_rate_at_that_precision(self):
        rate = EngineRate("clip_image", "fp16", 64, 8.0, 8.5, 9.25, 64 * 35 * 10**9)
        assert rate.images_per_second == 8000
        assert rate.tflops == pytest.approx(280)
        matrix = [MatrixRate("fp8", 1400.0, 8192, "x"), MatrixRate("fp16", 700.0, 8192, "x")]
        assert gpu_findings.share(rate, matrix) == pytest.approx(0.4)
        assert gpu_findings.share(rate, matrix[:1]) is None
        last = gpu_findings.rate_table([rate], matrix).splitlines()[-1]
        assert last == "| clip_image | fp16 | 64 | 8000 | 8.50 | 9.25 | 280.00 | 40.0% |"
        assert gpu_findings.rate_table([rate], []).endswith("| - |")

    def test_the_report_says_what_ran_where_and_leaves_out_empty_tables(self):
        outcomes = [Outcome("GPU", str(L4), 0.0), Outcome("engines", "FAILED: a | b\n" + "log\n" * 200, 1.25, True)]
        text = gpu_findings.to_markdown("veridict gpu-check", Findings([L4]), outcomes, "TensorRT 11.4")
        assert "`veridict gpu-check`" in text
        assert "NVIDIA L4, compute capability 8.9, driver 580.10, 23034 MiB" in text
        assert "Versions: TensorRT 11.4." in text
        assert "| engines | FAILED: a / b log log" in text
        assert max(map(len, text.splitlines())) < 400
        assert "## " not in text
        full = Findings([L4], parities=[Parity("face_cnn", "LOGIT", "fp16", 8, 0.99951, 0.01, 1.0)])
        full.rates.append(EngineRate("face_cnn", "fp16", 1, 1.0, 1.0, 1.0, 10**9))
        text = gpu_findings.to_markdown("veridict gpu-check", full, outcomes, "TensorRT 11.4")
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

        monkeypatch.setattr(gpu_check, "build", fail)
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
        assert main(["gpu-check", "--seconds", "0"]) == 2
        assert "must be positive" in capsys.readouterr().err
