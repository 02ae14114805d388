"""``veridict train text``: the command line; :mod:`.text` does the work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from veridict.deploy import option_types
from veridict.forensics.arrays import Float32Array

from ..bundled import TEXT_WEIGHTS
from .settings import TextTraining
from .text import train_text

_BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--manifest", type=Path, required=True, help="CSV: file,label,split,source,kind,caption")
    parser.add_argument(
        "--anchors", type=Path, required=True, help="npz: names, photo, several_names, several, templates"
    )
    parser.add_argument(
        "--features",
        type=Path,
        nargs="*",
        default=[],
        metavar="NPZ",
        help="stored image embeddings; images without one are embedded by the bundled image tower",
    )
    parser.add_argument("--start", type=Path, help="sentence encoder, folder or zip (default: the MiniLM package's)")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="SOURCE", help="sources kept for validation")
    parser.add_argument("--held-back", type=option_types.whole(0), default=0, help="anchors kept for validation")
    parser.add_argument("--steps", type=option_types.whole(0), default=TextTraining.steps)
    parser.add_argument("--output", type=Path, default=TEXT_WEIGHTS, help="weights to write (default: %(default)s)")
    parser.add_argument("--seed", type=option_types.whole(0, 2**32 - 1), default=TextTraining.seed)


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and return the figures on what the tower did not learn from."""
    settings = TextTraining(
        manifest=arguments.manifest,
        anchors=arguments.anchors,
        features=tuple(arguments.features),
        output=arguments.output,
        start=arguments.start,
        held_out=tuple(arguments.held_out),
        held_back=arguments.held_back,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    return train_text(settings, embed_files)


def embed_files(paths: Sequence[Path]) -> Float32Array:
    """Return the bundled image tower's embeddings [N, D] of files, prepared as they are when served."""
    from veridict.deploy.manifest import default_repository
    from veridict.forensics.preprocess import shrink_for_views
    from veridict.forensics.views import clip_view

    from ..datasets import read_image
    from ..pipeline import InProcessDetector

    detector = InProcessDetector(default_repository(), needs_calibration=False)
    found = []
    for start in range(0, len(paths), _BATCH):
        views = [clip_view(shrink_for_views(read_image(path))) for path in paths[start : start + _BATCH]]
        found.append(detector.embed(np.stack(views))[0])
    return np.concatenate(found)
