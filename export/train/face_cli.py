"""``veridict train face-cnn``: the command line; :mod:`.face` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from veridict.deploy import option_types

from ..bundled import FACE_WEIGHTS
from .face import train_face_cnn
from .settings import FaceTraining


def _factor(text: str) -> tuple[str, float]:
    source, _, factor = text.partition("=")
    if not source:
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE=FACTOR")
    return source, option_types.real(0.0, 1e6, above=True)(factor)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    defaults = FaceTraining
    parser.add_argument("--data", type=Path, required=True, help="folder with real/ and fake/ anywhere below")
    parser.add_argument("--epochs", type=option_types.whole(1), default=defaults.epochs)
    parser.add_argument("--samples-per-epoch", type=option_types.whole(1), default=defaults.samples_per_epoch)
    parser.add_argument(
        "--learning-rate",
        type=option_types.real(0.0, 1000.0, above=True),
        default=defaults.learning_rate,
        help="peak of the one-cycle schedule",
    )
    parser.add_argument("--start", type=Path, help="weights to start from (default: ImageNet's)")
    parser.add_argument(
        "--emphasis", nargs="*", default=[], type=_factor, metavar="SOURCE=FACTOR", help="draw a source more often"
    )
    parser.add_argument(
        "--whole-fakes",
        nargs="*",
        default=[],
        metavar="SOURCE",
        help="sources whose fakes are generated from edge to edge; they are labelled cell by cell, two images in one",
    )
    parser.add_argument(
        "--mix",
        type=option_types.real(0.0, 1.0),
        default=defaults.mix,
        help="share of the --whole-fakes draws that is two images in one",
    )
    parser.add_argument(
        "--mosaic",
        type=option_types.real(0.0, 1.0),
        default=defaults.mosaic,
        help="share of the --whole-fakes draws that is four images in one",
    )
    parser.add_argument(
        "--drop-path",
        type=option_types.real(0.0, 1.0),
        default=defaults.drop_path,
        help="chance of skipping the deepest block (stochastic depth)",
    )
    parser.add_argument(
        "--average",
        type=option_types.real(0.0, 1.0),
        default=defaults.average,
        help="decay per step of the averaged weights",
    )
    parser.add_argument(
        "--crop",
        type=option_types.whole(1, 224),
        default=defaults.crop,
        help="side of the training windows, at most 224",
    )
    parser.add_argument("--weight-decay", type=option_types.real(0.0, 1000.0), default=defaults.weight_decay)
    parser.add_argument("--leave-out", default="", help="source kept for validation, for leave-one-source-out figures")
    parser.add_argument("--scratch", action="store_true", help="do not start from ImageNet weights")
    parser.add_argument("--output", type=Path, default=FACE_WEIGHTS, help="weights to write (default: %(default)s)")
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/face-cnn"),
        help="folder of the log and of the state from which an interrupted run resumes (default: %(default)s)",
    )
    parser.add_argument("--seed", type=option_types.whole(0, 2**32 - 1), default=defaults.seed)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and return the validation figures per source."""
    settings = FaceTraining(
        data=arguments.data,
        output=arguments.output,
        run=arguments.run,
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
    return train_face_cnn(settings)
