"""``veridict train tower``: the command line; :mod:`.tower` does the work."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from .settings import TowerTraining
from .tower import train_tower

#: Field of the settings, and option of the same name -> help.
_OPTIONS = {
    "first_block": "first block to tune, from 1",
    "last_block": "last block to tune",
    "rank": "rank of the updates",
    "steps": "steps at most",
    "every": "steps between evaluations; each evaluation writes the state",
    "patience": "evaluations in a row without gain after which the run ends",
    "half_batch": "number of real images in a step, and of fake ones",
    "learning_rate": "peak of the one-cycle schedule",
    "keep": "weight of the cosine penalty that keeps the embedding close to the frozen one",
    "degraded": "share of draws that are degraded at random",
    "head_images": "images that train the heads with which frozen and tuned tower are compared",
    "val_images": "most images of each half of the validation",
    "seed": "seed of draws, degradations, updates and dropout",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--labelled", type=Path, required=True, help="CSV manifest with labelled rows in the splits train and val"
    )
    parser.add_argument("--sources", nargs="*", default=[], help="beginnings of the source names to use (default: all)")
    for name, text in _OPTIONS.items():
        default = getattr(TowerTraining, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--workers", type=int, help="processes that read images (default: 1 on a CPU, else one less than its cores)"
    )
    parser.add_argument("--output", type=Path, required=True, help="merged weights to write (.safetensors)")
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/tower"),
        help="folder of the log and of the state from which an interrupted run resumes (default: %(default)s)",
    )


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tune and return the figures of the shipping rule."""
    settings = TowerTraining(arguments.labelled, arguments.output, arguments.run, tuple(arguments.sources))
    return train_tower(
        replace(settings, **{name: getattr(arguments, name) for name in (*_OPTIONS, "device", "workers")})
    )
