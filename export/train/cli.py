"""``veridict train``: the face CNN, the text tower, the tuned image tower, averages of weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundled import FACE_WEIGHTS
from . import text as train_text
from . import tower as train_tower


def _factor(text: str) -> tuple[str, float]:
    source, _, factor = text.partition("=")
    if not source or not float(factor) > 0:
        raise ValueError(text)
    return source, float(factor)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    networks = parser.add_subparsers(dest="network", required=True)
    face = networks.add_parser("face-cnn", help="train on folders real/ + fake/")
    face.add_argument("--data", type=Path, required=True, help="folder with real/ and fake/ anywhere below")
    face.add_argument("--epochs", type=int, default=8)
    face.add_argument("--samples-per-epoch", type=int, default=7000)
    face.add_argument("--learning-rate", type=float, default=1e-3, help="peak of the one-cycle schedule")
    face.add_argument("--start", type=Path, help="weights to go on from (default: ImageNet's)")
    face.add_argument(
        "--emphasis", nargs="*", default=[], type=_factor, metavar="SOURCE=FACTOR", help="draw a source more often"
    )
    face.add_argument(
        "--whole-fakes",
        nargs="*",
        default=[],
        metavar="SOURCE",
        help="sources whose fakes are generated from edge to edge: learnt cell by cell, two pictures in one",
    )
    face.add_argument("--mix", type=float, default=0.45, help="share of their draws that is two pictures in one")
    face.add_argument("--mosaic", type=float, default=0.0, help="share of their draws that is four pictures in one")
    face.add_argument(
        "--drop-path", type=float, default=0.0, help="chance of skipping the deepest block (stochastic depth)"
    )
    face.add_argument("--average", type=float, default=0.997, help="decay per step of the averaged weights")
    face.add_argument("--crop", type=int, default=160, help="side of the training windows, at most 224")
    face.add_argument("--weight-decay", type=float, default=0.02)
    face.add_argument("--leave-out", default="", help="source kept for validation, for leave-one-source-out figures")
    face.add_argument("--scratch", action="store_true", help="do not start from ImageNet weights")
    text = networks.add_parser("text", help="train the text tower beside the bundled image tower")
    train_text.add_arguments(text)
    tower = networks.add_parser("tower", help="tune the bundled image tower by low-rank updates of its blocks")
    train_tower.add_arguments(tower)
    average = networks.add_parser("average", help="average weights of one architecture, before and after more training")
    average.add_argument("--weights", type=Path, nargs="+", required=True, metavar="FILE.safetensors")
    average.add_argument("--output", type=Path, required=True, help="weights to write")
    face.add_argument("--output", type=Path, default=FACE_WEIGHTS, help="weights to write (default: %(default)s)")
    face.add_argument("--run", type=Path, help="folder of the log and the resumable state (default: runs/face-cnn)")
    face.add_argument("--seed", type=int, default=20261123)


def embed_files(paths: Sequence[Path]) -> npt.NDArray[np.float32]:
    """Return the bundled image tower's embeddings [N, D] of files, prepared as they are when served."""
    from veridict.deploy.repository import default_repository
    from veridict.forensics.faces import clip_view
    from veridict.forensics.preprocess import shrink_for_views

    from ..datasets import read_image
    from ..pipeline import InProcessDetector

    detector = InProcessDetector(default_repository(), needs_calibration=False)
    found = []
    for start in range(0, len(paths), 16):
        views = [clip_view(shrink_for_views(read_image(path))) for path in paths[start : start + 16]]
        found.append(detector.embed(np.stack(views))[0])
    return np.concatenate(found)


def run(arguments: argparse.Namespace) -> int:
    """Train and print the validation figures as JSON; return 0, or 1 with the reason on standard error."""
    try:
        if arguments.network == "average":
            from ..models.weights import average_weights

            average_weights(arguments.weights, arguments.output)
            print(f"wrote {arguments.output}")
            return 0
        if arguments.network == "text":
            return train_text.run(arguments, embed_files)
        if arguments.network == "tower":
            return train_tower.run(arguments)
        from .face import FaceTraining, train_face_cnn

        figures = train_face_cnn(
            FaceTraining(
                data=arguments.data,
                output=arguments.output,
                run=arguments.run or Path("runs") / arguments.network,
                epochs=arguments.epochs,
                samples_per_epoch=arguments.samples_per_epoch,
                learning_rate=arguments.learning_rate,
                start=arguments.start,
                emphasis=tuple(arguments.emphasis),
                whole_fakes=tuple(arguments.whole_fakes),
                mix=arguments.mix,
                mosaic=arguments.mosaic,
                drop_path=arguments.drop_path,
                average=arguments.average,
                crop=arguments.crop,
                weight_decay=arguments.weight_decay,
                leave_out=arguments.leave_out,
                imagenet=not arguments.scratch,
                seed=arguments.seed,
            )
        )
    except (ImportError, OSError, ValueError) as error:
        print(f"veridict train: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    return 0
