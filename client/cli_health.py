"""``veridict health``: exit status 0 when the detector is ready."""

from __future__ import annotations

import argparse
import sys

from .cli_detect import add_connection_arguments, connect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when ready, 1 when not."""
    with connect(arguments) as client:
        if client.ready(min(arguments.deadline, 5.0)):
            print(f"ready: detector at {arguments.url}")
            return 0
    print(f"not ready: no detector at {arguments.url}", file=sys.stderr)
    return 1
