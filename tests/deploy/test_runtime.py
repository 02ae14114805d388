"""The CPU runtime: a row's result never depends on its company, whatever the processor computes with."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from veridict.deploy.manifest import cpu_graph, default_repository
from veridict.deploy.serving import cpu_runtime
from veridict.deploy.serving.cpu_runtime import best_precision, load_network

#: oneDNN, which computes for OpenVINO, can be held to an older processor's instructions.
PROCESSORS = {
    "native": ("", ""),
    "integers of 7 and 8 bits": ("", "w7a8"),
    "AVX-512 with byte dot products and bfloat16": ("AVX512_CORE_BF16", "int8_bf16"),
    "AVX-512 with byte dot products": ("AVX512_CORE_VNNI", "int8"),
    "AVX-512 without": ("AVX512_CORE", "f32"),
    "AVX2 with byte dot products": ("AVX2_VNNI", "int8"),
    "AVX2": ("AVX2", "f32"),
}
FLAGS = {
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE": "avx512bw",
    "AVX2_VNNI": "avx_vnni",
    "AVX2": "avx2",
}

#: The lowest cosine allowed between a row of float32 and the same row in each precision.
LOWEST_COSINE = {"bf16": 0.998, "int8": 0.998, "int8_bf16": 0.998, "f32": 0.998, "w7a8": 0.99}

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from veridict.deploy.serving.cpu_runtime import load_network
path, precision = Path(sys.argv[1]), sys.argv[2]
rows = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
network = load_network(path, 2, precision)
together = network(rows)
for i in (0, 2):
    row = rows[i : i + 1]
    for batch, at in ((row, 0), (np.concatenate([row, rows]), 0), (np.concatenate([rows[::-1], row]), 3)):
        for whole, found in zip(together, network(batch)):
            assert np.array_equal(whole[i], found[at]), (i, len(batch))
print("same", *(float(np.abs(part).max()) for part in together))
"""


def has(isa):
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return not isa or FLAGS[isa] in flags.split()


@pytest.mark.parametrize("name", [pytest.param("clip_image", marks=pytest.mark.slow), "face_cnn"])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_picture_gets_the_same_numbers_alone_and_in_any_company(name, processor):
    isa, precision = PROCESSORS[processor]
    if name == "face_cnn" and precision == "w7a8":
        pytest.skip("only the transformer has such a graph")
    if not has(isa):
        pytest.skip(f"this processor cannot stand for {processor}")
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    if isa:
        environment["ONEDNN_MAX_CPU_ISA"] = isa
    command = [sys.executable, "-c", SCRIPT, str(cpu_graph(default_repository() / name / "1")), precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("same")


@pytest.mark.slow
@pytest.mark.parametrize("precision", [*LOWEST_COSINE, ""])
def test_precisions_agree_on_a_picture(cat, precision):
    from veridict.forensics.views import clip_view

    view = clip_view(cat)[None]
    graph = default_repository() / "clip_image" / "1" / "model.onnx"
    exact, found = (load_network(graph, 1, wanted)(view) for wanted in ("f32", precision))
    for a, b in zip(exact, found, strict=True):
        a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > LOWEST_COSINE[precision or best_precision()]


@pytest.mark.parametrize(
    ("flags", "bfloat16", "expected"),
    [
        ("avx2 avx512f avx512_vnni avx512_bf16 amx_bf16", True, "bf16"),
        ("avx2 avx512f avx512_vnni avx512_bf16", True, "int8_bf16"),
        ("avx2 avx512f avx512_vnni", False, "int8"),
        ("avx2 avx_vnni", False, "int8"),
        ("asimd bf16", True, "bf16"),
        ("avx2 avx512f", False, "w7a8"),
        ("avx2", False, "w7a8"),
        ("avx", False, "f32"),
    ],
)
def test_the_precision_suits_the_processor(monkeypatch, flags, bfloat16, expected):
    monkeypatch.setattr(cpu_runtime, "processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(cpu_runtime, "has_bfloat16", lambda: bfloat16)
    assert best_precision() == expected


def test_without_the_graph_for_it_a_network_falls_back_to_float32_unless_integers_were_asked_for(monkeypatch):
    monkeypatch.setattr(cpu_runtime, "best_precision", lambda: "w7a8")
    graph = cpu_graph(default_repository() / "face_cnn" / "1")
    row = np.zeros((1, 224, 224, 3), np.uint8)
    assert np.array_equal(load_network(graph, 1)(row)[0], load_network(graph, 1, "f32")(row)[0])
    with pytest.raises(ValueError, match=r"has no model\.w7a8\.onnx; export"):
        load_network(graph, 1, "w7a8")


def test_an_unknown_precision_is_an_error_that_names_the_known_ones():
    graph = cpu_graph(default_repository() / "face_cnn" / "1")
    with pytest.raises(ValueError, match="'fp4' is none of bf16, int8, int8_bf16, f32, w7a8"):
        load_network(graph, 1, "fp4")


@pytest.mark.slow
def test_rows_of_another_shape_are_an_error_in_either_runtime():
    graph = default_repository() / "clip_image" / "1" / "model.onnx"
    for precision in ("f32", "w7a8"):
        with pytest.raises(RuntimeError):
            load_network(graph, 1, precision)(np.zeros((2, 64, 64, 3), np.uint8))
