"""The command-line options that every peer's server takes."""

from __future__ import annotations

import argparse
from pathlib import Path


def peer_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with ``--port``, ``--repository`` and ``--cuda``; the peer adds its own options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, required=True, help="loopback port to listen on")
    parser.add_argument("--repository", type=Path, required=True, help="model repository with the graphs")
    parser.add_argument("--cuda", action="store_true", help="run the networks on the GPU where the peer can")
    return parser
