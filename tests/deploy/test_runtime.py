"""The CPU runtime: a row's result never depends on its company, whatever the processor computes with."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from veridict.deploy.manifest import cpu_graph, default_repository
from veridict.deploy.serving.openvino_runtime import Network, best_precision

#: oneDNN, which computes for OpenVINO, can be held to an older processor's instructions.
PROCESSORS = {
    "native": ("", ""),
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

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from veridict.deploy.serving.openvino_runtime import Network
path, precision = Path(sys.argv[1]), sys.argv[2]
rows = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
network = Network(path, 2, precision)
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
def test_precisions_agree_on_a_picture(cat):
    from veridict.forensics.views import clip_view

    view = clip_view(cat)[None]
    graph = default_repository() / "clip_image" / "1" / "model.onnx"
    exact = Network(graph, 1, "f32")(view)
    rows = {precision: Network(graph, 1, precision)(view) for precision in {"int8", best_precision()}}
    for precision, found in rows.items():
        for a, b in zip(exact, found, strict=True):
            a, b = (x.reshape(-1, x.shape[-1]) for x in (a, b))
            cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert cosine.min() > 0.998, precision
