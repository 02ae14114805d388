"""``veridict train tower``: the command line; :mod:`.tower` does the work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from veridict.deploy import option_types

from .settings import TowerTraining
from .tower import train_tower

#: Field of the settings, and option of the same name -> type and help.
_OPTIONS: dict[str, tuple[Callable[[str], float], str]] = {
    "first_block": (option_types.whole(1, 1000), "first block to tune, from 1"),
    "last_block": (option_types.whole(1, 1000), "last block to tune"),
    "rank": (option_types.whole(1, 10_000), "rank of the updates"),
    "steps": (option_types.whole(1), "steps at most"),
    "every": (option_types.whole(1), "steps between evaluations; each evaluation writes the state"),
    "patience": (option_types.whole(1), "evaluations in a row without gain after which the run ends"),
    "half_batch": (option_types.whole(1, 10_000), "number of real images in a step, and of fake ones"),
    "learning_rate": (option_types.real(0.0, 1000.0, above=True), "peak of the one-cycle schedule"),
    "keep": (
        option_types.real(0.0, 1e6),
        "weight of the cosine penalty that keeps the embedding close to the frozen one",
    ),
    "degraded": (option_types.real(0.0, 1.0), "share of draws that are degraded at random"),
    "head_images": (
        option_types.whole(1),
        "images that train the heads with which frozen and tuned tower are compared",
    ),
    "val_images": (option_types.whole(1), "most images of each half of the validation"),
    "seed": (option_types.whole(0, 2**32 - 1), "seed of draws, degradations, updates and dropout"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--labelled", type=Path, required=True, help="CSV manifest with labelled rows in the splits train and val"
    )
    parser.add_argument("--sources", nargs="*", default=[], help="beginnings of the source names to use (default: all)")
    for name, (kind, text) in _OPTIONS.items():
        default = getattr(TowerTraining, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--workers",
        type=option_types.whole(0, 1024),
        help="processes that read images (default: 1 on a CPU, else one less than its cores)",
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
