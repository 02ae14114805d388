"""``veridict bench --processors``: speed and answers of the image encoder on each kind of processor.

oneDNN, which OpenVINO computes with, can be limited to an older processor's instructions (``ONEDNN_MAX_CPU_ISA``), so
one machine can stand for several. Each kind is measured in a process of its own, float32 and the served precision in
turn, on the same images. ONNX Runtime cannot be limited so: its fp32 graph, and the integers that processors without
byte dot products are served, are measured with the machine's own instructions only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy.manifest import ENGINE_FILES, cpu_graph
from veridict.deploy.repository import CALIBRATION
from veridict.deploy.serving.cpu_runtime import best_precision, load_network
from veridict.deploy.serving.openvino_runtime import Network
from veridict.deploy.serving.processor import processor_flags, usable_cores
from veridict.export.pipeline import Run
from veridict.forensics import signature as sig
from veridict.forensics.arrays import Pixels
from veridict.forensics.calibration import HEAD_FILE
from veridict.forensics.token_head import load_token_head

from ..tables import markdown_table
from .networks import time_interleaved
from .onnx_session import load_session


@dataclass(frozen=True)
class Processor:
    """A kind of processor.

    ``instructions`` is oneDNN's name of its instruction set, ``flag`` the /proc/cpuinfo feature that a machine needs to
    stand for it, and ``precision`` what is served there. All are "" for this machine.
    """

    name: str
    instructions: str = ""
    flag: str = ""
    precision: str = ""


PROCESSORS = (
    Processor("this machine"),
    Processor("AVX-512 with byte dot products and bfloat16", "AVX512_CORE_BF16", "avx512_bf16", "int8_bf16"),
    Processor("AVX-512 with byte dot products", "AVX512_CORE_VNNI", "avx512_vnni", "int8"),
    Processor("AVX2 with byte dot products", "AVX2_VNNI", "avx_vnni", "int8"),
)


def measure_in_process(repository: Path, precision: str, views: Pixels, seconds: float) -> dict[str, Any]:
    """Return the encoder's median milliseconds per image in each runtime, and the logits of the served head.

    ``precision`` is the served one; "" means this machine's best and also measures ONNX Runtime. All cores are used.
    """
    folder = repository / sig.CLIP_IMAGE.name / "1"
    head = load_token_head((repository / CALIBRATION).with_name(HEAD_FILE))
    cores = usable_cores()
    runs: dict[str, Run] = {
        "served": load_network(cpu_graph(folder), cores, precision),
        "float32": Network(folder / ENGINE_FILES["cpu"], cores, "f32"),
    }
    if not precision:
        runs["onnxruntime"] = load_session(folder / ENGINE_FILES["cpu"], cores)
    times = time_interleaved(runs, views[: 4 * cores], seconds, calls=1, turns=3)
    logits = {}
    for name in ("served", "float32"):
        tokens = np.concatenate([runs[name](views[i : i + 8])[1] for i in range(0, len(views), 8)])
        logits[name] = [head.read(row)[0] for row in tokens]
    return {"precision": precision or best_precision(), "ms": times, "logits": logits}


def labelled_views(manifest: Path, count: int) -> tuple[Pixels, list[int]]:
    """Return views uint8 [N, 224, 224, 3] of ``count`` labelled val images, half of them fake, and their labels.

    Raises:
        ValueError: the manifest has no such images.
    """
    from veridict.export.datasets import LABELS, read_image, read_labelled
    from veridict.forensics.preprocess import shrink_for_views
    from veridict.forensics.views import clip_view

    samples = read_labelled(manifest, splits=["val"])
    rng = np.random.default_rng(0)
    order = [samples[i] for i in rng.permutation(len(samples))]
    chosen = [s for label in LABELS for s in [s for s in order if s.label == label][: count // 2]]
    views = np.stack([clip_view(shrink_for_views(read_image(s.path))) for s in chosen])
    return views, [LABELS[s.label] for s in chosen]


def measure_processors(repository: Path, views: Pixels, labels: Sequence[int], seconds: float) -> str:
    """Return a Markdown table with a row per kind of processor; "-" where this machine cannot stand for it.

    The labels (1 = fake) of the views uint8 [N, 224, 224, 3] give the AUC of the head's logits. The last two columns
    compare the logits with those of float32.
    """
    from veridict.export.evaluate.metrics import roc_auc

    truth, lines = np.array(labels), []
    for processor in PROCESSORS:
        if processor.flag and processor.flag not in processor_flags():
            lines.append((processor.name, *("-",) * 8))
            continue
        found = _measure_in_subprocess(repository, processor, views, seconds)
        ms, served, exact = found["ms"], *(np.array(found["logits"][k]) for k in ("served", "float32"))
        onnx_runtime = f"{ms['onnxruntime'] / ms['served']:.2f}" if "onnxruntime" in ms else "-"
        both_labels = 0 < truth.sum() < truth.size
        lines.append(
            (
                processor.name,
                found["precision"],
                f"{1e3 / ms['served']:.1f}",
                f"{ms['float32'] / ms['served']:.2f}",
                onnx_runtime,
                f"{roc_auc(truth, served):.4f}" if both_labels else "-",
                f"{roc_auc(truth, exact):.4f}" if both_labels else "-",
                f"{np.abs(served - exact).mean():.3f}",
                f"{np.mean((served > 0) == (exact > 0)):.4f}",
            )
        )
    header = (
        "processor",
        "computes in",
        "images/s",
        "float32 / served",
        "ONNX Runtime fp32 / served",
        "AUC",
        "AUC in float32",
        "mean change of the logit",
        "same side of 0",
    )
    return markdown_table(header, lines)


def _measure_in_subprocess(repository: Path, processor: Processor, views: Pixels, seconds: float) -> dict[str, Any]:
    """Run :func:`measure_in_process` in a process whose oneDNN is limited to the processor's instructions.

    Raises:
        RuntimeError: the process failed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    if processor.instructions:
        environment["ONEDNN_MAX_CPU_ISA"] = processor.instructions
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.npy"
        np.save(path, views)
        precision = processor.precision or "best"
        command = [sys.executable, "-m", __name__, str(repository), precision, str(path), str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {processor.name} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str]) -> None:
    """Print the result of :func:`measure_in_process` as JSON: REPOSITORY PRECISION VIEWS.npy SECONDS."""
    repository, precision, path, seconds = arguments
    chosen = "" if precision == "best" else precision
    print(json.dumps(measure_in_process(Path(repository), chosen, np.load(path, allow_pickle=False), float(seconds))))


if __name__ == "__main__":
    main(sys.argv[1:])
