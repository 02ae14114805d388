"""Triton's model configurations (``config.pbtxt``), parsed as what they are: protobuf text of a ``ModelConfig``.

The message type comes with the gRPC client (``tritonclient.grpc.model_config_pb2``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def parse_model_config(text: str, path: Path) -> ModelConfig:
    """Return the configuration that ``text`` holds; ``path`` names the file in errors.

    Raises:
        ValueError: the text is no model configuration; the message gives file, line and column.
    """
    # Imported here: these modules load gRPC, which the Python backends inside Triton do not need.
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path} is not a Triton model configuration: {error}") from error


def read_model_config(path: Path) -> ModelConfig:
    """Return the configuration in a ``.pbtxt`` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no model configuration; the message gives file, line and column.
    """
    return parse_model_config(path.read_text(), path)


def config_path(model: Path, profile: str) -> Path:
    """Return the configuration file of a model folder that a profile loads; it may be missing."""
    own = model / "configs" / f"{profile}.pbtxt"
    return own if own.exists() else model / "config.pbtxt"
