"""Makes torchvision importable with a CPU-only build of torch, and imports open_clip.

The registry's torchvision wheel is linked against CUDA. With a CPU build of torch its import fails with ``operator
torchvision::nms does not exist``: it registers Python fakes for two operators that its shared library could not
declare. Declaring their schemas first is enough, since neither operator is ever called here.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

_declared: list[Any] = []


def declare_torchvision_operators() -> None:
    """Declare ``torchvision::nms`` and ``torchvision::qnms`` when torchvision's own library cannot; idempotent."""
    if _declared:
        return
    import torch

    if torch.version.cuda is not None or importlib.util.find_spec("torchvision") is None:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)  # the schemas live as long as this object does


def import_open_clip() -> Any:
    """Return the ``open_clip`` module; raise ImportError naming the extra to install when it is absent."""
    try:
        declare_torchvision_operators()
        # Without a network, open_clip must fail at once with a clear message and not wait for the hub.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import open_clip
    except ImportError as error:
        raise ImportError(f"CLIP export needs torch and open_clip: pip install 'veridict[export]' ({error})") from error
    return open_clip
