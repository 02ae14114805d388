"""``veridict export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from veridict.deploy.repository import RepositoryError, check_repository, default_repository

from .bundled import COMPACT, FACE_WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--output", type=Path, default=default_repository(), help="where to build the repository")
    parser.add_argument("--clip", default=COMPACT, help="open_clip MODEL:PRETRAINED, or MODEL with --clip-checkpoint")
    parser.add_argument("--clip-checkpoint", type=Path, help="local CLIP weights (safetensors or a torch state dict)")
    parser.add_argument("--random-weights", action="store_true", help="untrained CLIP, to try an architecture out")
    parser.add_argument("--face-checkpoint", type=Path, default=FACE_WEIGHTS, help="face CNN weights (safetensors)")
    parser.add_argument("--prompts", type=Path, help="prompt ensembles (default: the bundled prompts.json)")
    parser.add_argument("--calibration", type=Path, help="calibration file fitted on these very models")
    parser.add_argument(
        "--check", action="store_true", help="only check the repository in --output against its manifest"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, or check; return 0, or 1 with the reason on standard error."""
    try:
        if arguments.check:  # needs no torch: a serving machine checks what it was given
            manifest = check_repository(arguments.output, "cpu")
            print(f"{arguments.output}: {len(manifest.files)} files as the manifest says; source {manifest.source}")
            return 0
    except RepositoryError as error:
        print(f"veridict export: {error}", file=sys.stderr)
        return 1
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    try:
        from .assemble import ExportError, ExportSettings, export_repository
        from .onnx_export import ParityError
    except ImportError as error:
        print(f"veridict export: {error}; pip install 'veridict[export]'", file=sys.stderr)
        return 1
    try:
        settings = ExportSettings(
            output=arguments.output,
            clip=arguments.clip,
            clip_checkpoint=arguments.clip_checkpoint,
            random_weights=arguments.random_weights,
            face_checkpoint=arguments.face_checkpoint,
            prompts=arguments.prompts,
            calibration=arguments.calibration,
        )
        for parity in export_repository(settings):
            print(
                f"{parity.model:<11} cosine to PyTorch {parity.lowest_cosine:.6f}, "
                f"largest difference {parity.largest_difference:.2e}"
            )
        print(f"wrote {arguments.output}")
    except (ExportError, ParityError, ValueError, OSError) as error:
        print(f"veridict export: {error}", file=sys.stderr)
        return 1
    return 0
