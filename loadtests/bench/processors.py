"""``veridict bench --processors``: the image encoder as each kind of processor computes it, in speed and in answers.

oneDNN, which computes for OpenVINO, can be held to an older processor's instructions (``ONEDNN_MAX_CPU_ISA``), so that
one machine stands for several. Each is measured in a process of its own, float32 and what is served there in turns, on
the same pictures; ONNX Runtime's fp32 graph, which cannot be held back so, is measured beside the machine's own
instructions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import CALIBRATION, ENGINE_FILES, cpu_graph
from veridict.deploy.serving.openvino_runtime import Network, best_precision, usable_cores
from veridict.forensics import signature as sig
from veridict.forensics.calibration import HEAD_FILE
from veridict.forensics.token_head import load_token_head

from ..tables import markdown
from .networks import load_session

#: What is measured: the processor, oneDNN's name of its instructions ("" = this machine's), the flag that a machine
#: needs to stand for it, and the precision that is served there.
PROCESSORS = (
    ("this machine", "", "", ""),
    ("AVX-512 with byte dot products", "AVX512_CORE_VNNI", "avx512_vnni", "int8"),
    ("AVX-512 without", "AVX512_CORE", "avx512bw", "f32"),
    ("AVX2 with byte dot products", "AVX2_VNNI", "avx_vnni", "int8"),
    ("AVX2", "AVX2", "avx2", "f32"),
)
Pixels = npt.NDArray[np.uint8]
Run = Callable[[Pixels], Any]


def measure_here(repository: Path, precision: str, views: Pixels, seconds: float) -> dict[str, Any]:
    """Return milliseconds per image (medians) of the ways to run the encoder, and the head's logits by each.

    Float32, what is served (``precision``, "" for this machine's best) and, where that is "", ONNX Runtime; all on
    every core.
    """
    folder = repository / sig.CLIP_IMAGE.name / "1"
    head = load_token_head((repository / CALIBRATION).with_name(HEAD_FILE))
    cores = usable_cores()
    runs: dict[str, Run] = {
        "served": Network(cpu_graph(folder), cores, precision),
        "float32": Network(folder / ENGINE_FILES["cpu"], cores, "f32"),
    }
    if not precision:
        runs["onnxruntime"] = load_session(folder / ENGINE_FILES["cpu"], cores)
    times: dict[str, list[float]] = {name: [] for name in runs}
    turn = views[: 4 * cores]
    ends = time.perf_counter() + seconds
    while len(times["served"]) < 3 or time.perf_counter() < ends:
        for name, run in runs.items():
            started = time.perf_counter()
            run(turn)
            times[name].append((time.perf_counter() - started) * 1e3 / len(turn))
    logits = {}
    for name in ("served", "float32"):
        tokens = np.concatenate([runs[name](views[i : i + 8])[1] for i in range(0, len(views), 8)])
        logits[name] = [head.score(row) for row in tokens]
    return {
        "precision": precision or best_precision(),
        "ms": {name: float(np.median(found)) for name, found in times.items()},
        "logits": logits,
    }


def labelled_views(manifest: Path, count: int) -> tuple[Pixels, list[int]]:
    """Return the views uint8 [N, 224, 224, 3] of ``count`` labelled val pictures, half of them fake, and their labels.

    Raises:
        ValueError: the manifest has no such pictures.
    """
    from veridict.export.datasets import LABELS, read_image, read_labelled
    from veridict.forensics.faces import clip_view
    from veridict.forensics.preprocess import shrink_for_views

    samples = read_labelled(manifest, splits=["val"])
    rng = np.random.default_rng(0)
    order = [samples[i] for i in rng.permutation(len(samples))]
    chosen = [s for label in LABELS for s in [s for s in order if s.label == label][: count // 2]]
    views = np.stack([clip_view(shrink_for_views(read_image(s.path))) for s in chosen])
    return views, [LABELS[s.label] for s in chosen]


def has_flag(flag: str) -> bool:
    """Return whether this machine's processor has a feature of /proc/cpuinfo; "" is had by all."""
    try:
        return not flag or flag in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def measure_processors(repository: Path, views: Pixels, labels: Sequence[int], seconds: float) -> str:
    """Return a Markdown table, one row per processor that this machine can stand for.

    ``views`` uint8 [N, 224, 224, 3] with their ``labels`` (1 = fake) give the AUC of the head's logits and how far
    those move.
    """
    from veridict.export.evaluate.metrics import roc_auc

    truth, lines = np.array(labels), []
    for name, isa, flag, precision in PROCESSORS:
        if not has_flag(flag):
            lines.append((name, *("-",) * 8))
            continue
        found = _measure_apart(repository, isa, precision, views, seconds)
        ms, served, exact = found["ms"], *(np.array(found["logits"][k]) for k in ("served", "float32"))
        ort = f"{ms['onnxruntime'] / ms['served']:.2f}" if "onnxruntime" in ms else "-"
        both = 0 < truth.sum() < truth.size
        lines.append(
            (
                name,
                found["precision"],
                f"{1e3 / ms['served']:.1f}",
                f"{ms['float32'] / ms['served']:.2f}",
                ort,
                f"{roc_auc(truth, served):.4f}" if both else "-",
                f"{roc_auc(truth, exact):.4f}" if both else "-",
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
    return markdown(header, lines)


def _measure_apart(repository: Path, isa: str, precision: str, views: Pixels, seconds: float) -> dict[str, Any]:
    """Run :func:`measure_here` in a process that is held to some instructions."""
    import tempfile

    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"}
    if isa:
        environment["ONEDNN_MAX_CPU_ISA"] = isa
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "views.npy"
        np.save(path, views)
        command = [sys.executable, "-m", __name__, str(repository), precision or "best", str(path), str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {isa or 'this machine'} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str]) -> None:
    """Print :func:`measure_here` as JSON: REPOSITORY PRECISION VIEWS.npy SECONDS."""
    repository, precision, path, seconds = arguments
    chosen = "" if precision == "best" else precision
    print(json.dumps(measure_here(Path(repository), chosen, np.load(path), float(seconds))))


if __name__ == "__main__":
    main(sys.argv[1:])
