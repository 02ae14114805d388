"""The ``veridict`` command; a subcommand imports what it needs when it runs, so the client needs no server package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

#: Subcommand -> (module with ``add_arguments(parser)`` and ``run(arguments) -> int``, one line of help).
COMMANDS = {
    "serve": ("veridict.deploy.cli_serve", "start the detector on this machine and follow its log"),
    "detect": ("veridict.client.cli_detect", "judge files, folders or standard input"),
    "health": ("veridict.client.cli_health", "say whether a server is ready to judge"),
    "demo": ("veridict.deploy.demo", "start a server, judge sample images, write an HTML report"),
    "explain": ("veridict.explain.cli_explain", "show what the models looked at: maps and a report per image"),
    "worker": ("veridict.explain.jobs.cli_worker", "work on queued explanations"),
    "jobs": ("veridict.explain.jobs.cli_jobs", "look at queued explanations and queue dead ones again"),
    "bench": ("veridict.loadtests.bench.cli", "measure latency and throughput of the served pipeline"),
    "loadtest": ("veridict.loadtests.load.cli", "load the detector by a profile and hold it to thresholds"),
    "perf-analyzer": ("veridict.loadtests.load.perf_analyzer", "run NVIDIA's perf_analyzer with real images"),
    "bench-explain": ("veridict.loadtests.explain.cli", "measure explanations: seconds, pointing game, cost"),
    "gpu-check": ("veridict.loadtests.gpu.cli", "build, check, measure and serve the engines on this machine's GPU"),
    "export": ("veridict.export.convert.cli", "build a model repository from checkpoints"),
    "train": ("veridict.export.train.cli", "train the face CNN, the text tower, or tune the image tower"),
    "calibrate": (
        "veridict.export.calibrate.cli",
        "fit head, fusion, thresholds and confidence from labelled images",
    ),
    "evaluate": ("veridict.export.evaluate.cli", "measure a detector on labelled images"),
}
USAGE_ERROR = 2


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Only the options of ``command`` are declared, because that imports its module.

    Raises:
        ImportError: the module of ``command`` needs a package that is not installed.
    """
    parser = argparse.ArgumentParser(prog="veridict", description="Real or deepfake, of what kind, and why.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status: 0 done, 1 something failed, 2 usage."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    try:
        parser = build_parser(chosen)
    except ImportError as error:
        print(f"veridict {chosen}: {error}; install the extra it belongs to (see the README)", file=sys.stderr)
        return USAGE_ERROR
    parsed = parser.parse_args(arguments)
    try:
        return int(importlib.import_module(COMMANDS[parsed.command][0]).run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (``veridict detect ... | head``); there is nobody left to tell.
        sys.stdout = None
        return 1


if __name__ == "__main__":
    sys.exit(main())
