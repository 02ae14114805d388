"""The CPU profile's networks: which runtime and precision a graph is run in on this machine's processor.

**The precision depends on the processor** (:func:`best_precision`; figures in loadtests/PROCESSORS.md):

* with matrix instructions for bfloat16 (AMX): ``bf16``;
* else with byte dot products (VNNI): ``int8``, or ``int8_bf16`` where the processor also has bfloat16. The weights stay
  int8, and the activations of each token are quantised at run time in groups of 128 features;
* else with bfloat16: ``bf16``;
* else with AVX2: ``w7a8``, integers that AVX2 multiplies faster than floats, where the export made such a graph
  (:mod:`veridict.export.convert.smoothquant`);
* else ``f32``.

``w7a8`` is run by ONNX Runtime and the others by OpenVINO: without VNNI, OpenVINO's integer products are slower than
its float32. In both runtimes every inference has exactly one row and one thread. So an image gets the same answer
alone, in a batch of any size and at any place in it.
"""

from __future__ import annotations

from pathlib import Path

from ..manifest import W7A8_GRAPH
from .onnx_network import OnnxNetwork
from .openvino_runtime import PRECISIONS, Network, has_bfloat16
from .processor import processor_flags

W7A8 = "w7a8"


def best_precision() -> str:
    """Return how this processor computes large matrix products best; see the module's text."""
    flags, bfloat16 = processor_flags(), has_bfloat16()
    byte_products = flags & {"avx512_vnni", "avx_vnni"}
    if bfloat16 and ("amx_bf16" in flags or not byte_products):
        return "bf16"
    if byte_products:  # without AMX, bfloat16 has half the rate of byte dot products
        return "int8_bf16" if bfloat16 else "int8"
    return W7A8 if "avx2" in flags else "f32"


def load_network(path: Path, threads: int = 0, precision: str = "") -> Network | OnnxNetwork:
    """Return the graph at ``path``, ready to run with ``threads`` rows at a time (0 = one per core).

    ``precision`` "" stands for :func:`best_precision`, or for ``f32`` where that needs a graph that is not there.

    Raises:
        ValueError: the precision is unknown, or ``w7a8`` was asked for and there is no such graph beside ``path``.
    """
    if precision and precision not in (*PRECISIONS, W7A8):
        raise ValueError(f"precision {precision!r} is none of {', '.join((*PRECISIONS, W7A8))}")
    wanted = precision or best_precision()
    if wanted != W7A8:
        return Network(path, threads, wanted)
    integers = path.with_name(W7A8_GRAPH)
    if integers.exists():
        return OnnxNetwork(integers, threads)
    if precision:
        raise ValueError(f"precision {W7A8}: {path.parent} has no {W7A8_GRAPH}; export the repository again")
    return Network(path, threads, "f32")
