"""``veridict health``: exit status 0 when the detector is ready."""

from __future__ import annotations

import argparse
import sys

from veridict.deploy import option_types

from ._sync import DetectorClient
from .connection import add_connection_arguments, connection_or_exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--deadline", type=option_types.seconds, default=5.0, help="seconds to wait for the answer")
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when ready, 1 when not."""
    with DetectorClient(config=connection_or_exit(arguments)) as client:
        if client.ready(arguments.deadline):
            print(f"ready: detector at {arguments.url}")
            return 0
    print(f"not ready: no detector at {arguments.url}", file=sys.stderr)
    return 1
