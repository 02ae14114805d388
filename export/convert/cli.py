"""``veridict export``: the command line; :mod:`.assemble` does the work."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from veridict.deploy import option_types
from veridict.deploy.manifest import RepositoryError, default_repository, update_manifest
from veridict.deploy.repository import check_repository

from ..bundled import CLIP, FACE_WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--output", type=Path, default=default_repository(), help="where to build the repository")
    parser.add_argument(
        "--clip",
        default=CLIP,
        help="open_clip MODEL:PRETRAINED, or MODEL with --clip-checkpoint (default: the bundled CLIP)",
    )
    parser.add_argument("--clip-checkpoint", type=Path, help="local CLIP weights (safetensors or a torch state dict)")
    parser.add_argument("--random-weights", action="store_true", help="untrained CLIP weights, to try an architecture")
    parser.add_argument("--face-checkpoint", type=Path, default=FACE_WEIGHTS, help="face CNN weights (safetensors)")
    parser.add_argument("--prompts", type=Path, help="prompt ensembles (default: the bundled prompts.json)")
    parser.add_argument(
        "--prompts-only", action="store_true", help="only embed the prompts again; graphs and engines stay"
    )
    parser.add_argument("--calibration", type=Path, help="calibration file that was fitted on these models")
    parser.add_argument(
        "--int8", type=Path, metavar="IMAGES", help="quantise a convolutional image encoder with these images"
    )
    parser.add_argument("--int8-faces", type=Path, metavar="FACES", help="quantise the face CNN with these face crops")
    parser.add_argument(
        "--runtime", choices=("tensorrt", "tensorrt-rtx"), help="also build a TensorRT engine of each network"
    )
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16", help="precision of the engines")
    parser.add_argument(
        "--fp8",
        type=Path,
        metavar="IMAGES",
        help="build the image encoder's engine in fp8, calibrated with these images",
    )
    parser.add_argument("--target", default="current", help="GPU to build for, for example sm89 (tensorrt-rtx only)")
    parser.add_argument(
        "--batches", type=option_types.whole(1, 4096), nargs=3, default=(1, 16, 64), metavar=("MIN", "OPT", "MAX")
    )
    parser.add_argument(
        "--compatible", action="store_true", help="build engines that run on Ampere and all later GPUs (tensorrt only)"
    )
    parser.add_argument("--timing-cache", type=Path, help="file that makes the next build faster (tensorrt only)")
    parser.add_argument(
        "--check", action="store_true", help="only check the repository in --output against its manifest"
    )
    parser.add_argument(
        "--update-manifest",
        action="store_true",
        help="only record the files as they are now: after a deliberate change of a configuration, for example",
    )
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="profile that --check checks for")


def run(arguments: argparse.Namespace) -> int:
    """Export, or check; return 0, or 1 with the reason on standard error."""
    try:
        if arguments.check:  # needs no torch: a serving machine checks what it was given
            manifest = check_repository(arguments.output, arguments.profile)
            print(f"{arguments.output}: {len(manifest.files)} files are as the manifest says")
            return 0
        if arguments.update_manifest:
            update_manifest(arguments.output)
            print(f"{arguments.output}: recorded the files as they are now")
            return 0
    except (RepositoryError, ValueError, OSError) as error:
        print(f"veridict export: {error}", file=sys.stderr)
        return 1
    return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    try:
        from .assemble import export_prompts, export_repository
        from .engines import EngineError, EngineSettings
        from .parity import ParityError
        from .settings import ExportError, ExportSettings
    except ImportError as error:
        print(f"veridict export: {error}; pip install 'veridict[export]'", file=sys.stderr)
        return 1
    engine = None
    if arguments.runtime:
        engine = EngineSettings(
            runtime=arguments.runtime,
            target=arguments.target,
            batches=tuple(arguments.batches),
            compatible=arguments.compatible,
            timing_cache=arguments.timing_cache,
        )
    try:
        settings = ExportSettings(
            output=arguments.output,
            clip=arguments.clip,
            clip_checkpoint=arguments.clip_checkpoint,
            random_weights=arguments.random_weights,
            face_checkpoint=arguments.face_checkpoint,
            prompts=arguments.prompts,
            calibration=arguments.calibration,
            int8_images=arguments.int8,
            int8_faces=arguments.int8_faces,
            fp8_images=arguments.fp8,
            engine=engine,
            precision=arguments.precision,
        )
        if arguments.prompts_only:
            export_prompts(settings)
            print(f"wrote the prompt bank of {arguments.output}")
            return 0
        exported = export_repository(settings)
    except (ExportError, RepositoryError, EngineError, ParityError, ValueError, OSError) as error:
        print(f"veridict export: {error}", file=sys.stderr)
        return 1
    for p in exported.parities:
        print(
            f"{p.model:<11} {p.output:<13} {p.precision}  lowest cosine {p.lowest_cosine:.6f}, "
            f"same decision {p.agreement:.1%}, largest difference {p.largest_difference:.2e}, {p.rows} inputs"
        )
    for e in exported.engines:
        print(f"{e.model:<11} {e.file}  {e.runtime} for {e.target}: {e.layers} layers, {e.bytes} bytes, {e.seconds} s")
    print(f"wrote {arguments.output}")
    return 0
