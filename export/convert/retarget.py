"""Changing a tensor's dimensions in Triton's model configurations: another backbone has another width.

Protobuf's ``text_format`` would drop the files' comments when it writes them. So the text is edited in place and then
parsed: it must be exactly the configuration with the new dimensions, else nothing is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridict.deploy.model_config import parse_model_config

from .settings import ExportError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def retarget(repository: Path, tensor: str, dims: Sequence[int]) -> None:
    """Give a tensor new dimensions in every configuration that names it: inputs, outputs and warm-up requests.

    Raises:
        ExportError: no configuration names the tensor, or a file is laid out so that the edit does not take effect.
        ValueError: a file is no model configuration.
    """
    edited: dict[Path, str] = {}
    for path in sorted(repository.rglob("*.pbtxt")):
        text = path.read_text()
        wanted = parse_model_config(text, path)
        if not _set_dims(wanted, tensor, dims):
            continue
        edited[path] = _edit(text, tensor, dims)
        if parse_model_config(edited[path], path) != wanted:
            raise ExportError(
                f"{path}: the dimensions of {tensor} could not be replaced by {list(dims)}; "
                "write its name, data_type and dims on a line each, in this order"
            )
    if not edited:
        raise ExportError(f"no config.pbtxt under {repository} has a tensor {tensor}")
    for path, text in edited.items():
        path.write_text(text)


def _holders(config: ModelConfig, tensor: str) -> Iterator[Any]:
    """Yield every part of a configuration that states the dimensions of the tensor."""
    yield from (part for part in (*config.input, *config.output) if part.name == tensor)
    yield from (request.inputs[tensor] for request in config.model_warmup if tensor in request.inputs)


def _set_dims(config: ModelConfig, tensor: str, dims: Sequence[int]) -> bool:
    """Set the dimensions wherever the tensor is named; return whether it was."""
    holders = list(_holders(config, tensor))
    for holder in holders:
        holder.dims[:] = dims
    return bool(holders)


def _edit(text: str, tensor: str, dims: Sequence[int]) -> str:
    named = rf'name: "{re.escape(tensor)}"\n\s+'
    warmup = rf'key: "{re.escape(tensor)}"\n\s+value \{{\n\s+'
    pattern = re.compile(rf"((?:{named}|{warmup})data_type: \w+\n\s+dims: )\[[^\]]*\]")
    return pattern.sub(rf"\g<1>[ {', '.join(map(str, dims))} ]", text)
