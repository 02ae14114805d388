"""``veridict train``: the face CNN, the text tower, the tuned image tower, averages of weights."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..models.weights import average_weights
from . import face_cli, text_cli, tower_cli

#: Network -> (module with ``add_arguments(parser)`` and ``train(arguments) -> figures``, help).
NETWORKS: dict[str, tuple[Any, str]] = {
    "face-cnn": (face_cli, "train on folders real/ and fake/"),
    "text": (text_cli, "train the text tower to match the bundled image tower"),
    "tower": (tower_cli, "tune the bundled image tower by low-rank updates of its blocks"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    networks = parser.add_subparsers(dest="network", required=True)
    for name, (module, summary) in NETWORKS.items():
        module.add_arguments(networks.add_parser(name, help=summary))
    average = networks.add_parser("average", help="average weights of one architecture, before and after more training")
    average.add_argument("--weights", type=Path, nargs="+", required=True, metavar="FILE.safetensors")
    average.add_argument("--output", type=Path, required=True, help="weights to write")


def run(arguments: argparse.Namespace) -> int:
    """Train and print the validation figures as JSON; return 0, or 1 with the reason on standard error."""
    try:
        if arguments.network == "average":
            average_weights(arguments.weights, arguments.output)
            print(f"wrote {arguments.output}")
            return 0
        figures = NETWORKS[arguments.network][0].train(arguments)
    except (ImportError, OSError, ValueError) as error:
        print(f"veridict train {arguments.network}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    return 0
