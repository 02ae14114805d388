"""How much shared memory (/dev/shm) a server needs, and whether it is there.

Triton passes the tensors of a Python model through regions of /dev/shm. A region grows when a request needs it and
never shrinks, so a server that once found too little room keeps failing. Docker gives a container 64 MiB.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from veridict.forensics.decode import Limits
from veridict.forensics.signature import MODELS, PREPROCESS, Model

from .installation import LaunchError
from .model_config import config_path, read_model_config

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_FOLDER = Path("/dev/shm")  # noqa: S108 - shm_open's folder
_MEBIBYTE = 1024**2
MAX_BYTES = Limits().max_bytes
#: What every instance of a Python model takes at its start (``shm-default-byte-size``).
_REGION = _MEBIBYTE
_ITEM_BYTES = {"UINT8": 1, "FP32": 4, "INT32": 4, "INT64": 8}


@dataclass(frozen=True)
class SharedMemoryNeed:
    """Bytes of /dev/shm: ``least`` for one large image at a time, ``most`` with ``images`` of them in flight."""

    least: int
    most: int
    images: int


def _batch_bytes(model: Model) -> int:
    """Return the bytes of a full batch's inputs and outputs; 0 for tensors of strings, whose size varies."""
    tensors = [t for t in (*model.inputs, *model.outputs) if t.dtype != "STRING"]
    return model.max_batch_size * sum(_ITEM_BYTES[t.dtype] * math.prod(t.dims) for t in tensors)


def _instances(config: ModelConfig) -> int:
    return sum(max(1, group.count) for group in config.instance_group) or 1


def needed_shared_memory(repository: Path, profile: str) -> SharedMemoryNeed:
    """Return what the Python models of the profile need, from their configurations.

    ``least``: 1 MiB per instance, a full batch of every network twice (in its own region and in that of its caller),
    and one image of the largest size. ``most``: the same with as many images as ``preprocess`` takes in flight.

    Raises:
        ValueError: a configuration is malformed.
        OSError: one cannot be read.
    """
    least, images = MAX_BYTES, 1
    for name, model in MODELS.items():
        path = config_path(repository / name, profile)
        if not path.exists():  # the repository's own check says so
            continue
        config = read_model_config(path)
        if config.backend != "python":
            continue
        instances = _instances(config)
        least += instances * (_REGION + 2 * _batch_bytes(model))
        if name == PREPROCESS.name:
            images = instances * int(config.parameters["max_in_flight"].string_value or 1)
    return SharedMemoryNeed(least, least + (images - 1) * MAX_BYTES, images)


def free_shared_memory(folder: Path = _FOLDER) -> int | None:
    """Return the free bytes of /dev/shm, or None where there is no such folder."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def check_shared_memory(repository: Path, profile: str, free: int | None = None) -> str:
    """Return a warning when /dev/shm has less than the server may need, otherwise "".

    ``free``: bytes, by default what is free now.

    Raises:
        LaunchError: it has less than the server needs in any case.
    """
    free = free_shared_memory() if free is None else free
    if free is None:
        return ""
    need = needed_shared_memory(repository, profile)
    if free >= need.most:
        return ""
    least, most = (math.ceil(size / _MEBIBYTE) for size in (need.least, need.most))
    sentence = (
        f"{_FOLDER} has {free // _MEBIBYTE} MiB free; the server needs at least {least} MiB, and {most} MiB with "
        f"{need.images} images of {MAX_BYTES // _MEBIBYTE} MiB in flight. In a container give it more, for example "
        f"docker run --shm-size={most}m, or an emptyDir of medium Memory at {_FOLDER}"
    )
    if free < need.least:
        raise LaunchError(sentence)
    return f"veridict: warning: {sentence}"
