"""The ``veridict`` command; a subcommand imports what it needs when it runs, so the client needs no server package."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .structured_log import hide_credentials

#: Subcommand -> (module with ``add_arguments(parser)`` and ``run(arguments) -> int``, one line of help).
COMMANDS = {
    "serve": ("veridict.deploy.cli_serve", "start the detector on this machine and follow its log"),
    "detect": ("veridict.client.cli_detect", "judge files, folders or standard input"),
    "health": ("veridict.client.cli_health", "say whether a server is ready to judge"),
    "compare": ("veridict.deploy.cli_compare", "send images to two servers and say how their answers differ"),
    "gateway": ("veridict.client.cli_gateway", "answer HTTP uploads, for callers without gRPC"),
    "replay": ("veridict.deploy.cli_replay", "compute stored answers again from their evidence"),
    "sbom": ("veridict.deploy.cli_sbom", "list packages and weights as a CycloneDX document"),
    "audit": ("veridict.deploy.cli_audit", "ask a vulnerability service about the packages"),
    "banks": ("veridict.deploy.cli_banks", "check, hash, import and export banks of known pictures"),
    "demo": ("veridict.deploy.demo", "start a server, judge sample images, write an HTML report"),
    "ui": ("veridict.deploy.ui.cli", "show answers on a page on which people decide"),
    "backfill": ("veridict.deploy.backfill.cli", "judge an archive of images again; can be resumed"),
    "explain": ("veridict.explain.cli_explain", "show what the models looked at: maps and a report per image"),
    "worker": ("veridict.explain.jobs.cli_worker", "work on queued explanations"),
    "jobs": ("veridict.explain.jobs.cli_jobs", "look at queued explanations and queue dead ones again"),
    "bench": ("veridict.loadtests.bench.cli", "measure latency and throughput of the served pipeline"),
    "loadtest": ("veridict.loadtests.load.cli", "load the detector by a profile and hold it to thresholds"),
    "soak": ("veridict.loadtests.soak.cli", "load a server for long, and see what it gains in memory and latency"),
    "hostile": ("veridict.loadtests.hostile.cli", "check the answers to hostile images and to mutants of them"),
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
#: Subcommand -> the extras with everything that it may import; the commands that only ask a server need none.
EXTRAS = {
    "serve": "server",
    "gateway": "gateway",
    "replay": "serving",
    "sbom": "audit",
    "audit": "audit",
    "banks": "serving",
    "demo": "server,ui",
    "ui": "server,explain,review",
    "backfill": "backfill,serving",
    "explain": "explain",
    "worker": "explain",
    "jobs": "queue",
    "bench": "server,ui,bench",
    "loadtest": "server,ui,load",
    "soak": "server,ui,load",
    "hostile": "server,ui,bench",
    "perf-analyzer": "server,ui",
    "bench-explain": "server,ui,explain,load",
    "gpu-check": "server,ui,export,load",
    "export": "server,export",
    "train": "server,train",
    "calibrate": "server,export",
    "evaluate": "server,ui,export",
}
USAGE_ERROR = 2
#: With this environment variable an unexpected error is shown with its traceback.
TRACEBACK = "VERIDICT_TRACEBACK"


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


def missing_package(command: str, error: ImportError) -> str:
    """Return the sentence for a package that a command lacks: which one, and which extras bring it."""
    extras = EXTRAS.get(command)
    hint = f"it needs: pip install 'veridict[{extras}]'" if extras else "the installation of veridict is incomplete"
    return f"veridict {command}: {error}; {hint}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status: 0 done, 1 something failed, 2 usage."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    try:
        parser = build_parser(chosen)
    except ImportError as error:
        print(missing_package(chosen, error), file=sys.stderr)
        return USAGE_ERROR
    parsed = parser.parse_args(arguments)
    return run_command(parsed)


def describe_error(error: Exception) -> str:
    """Return one sentence for an unexpected error."""
    if isinstance(error, OSError | ValueError) and str(error):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} ({TRACEBACK}=1 shows where)"


def run_command(parsed: argparse.Namespace) -> int:
    """Run the subcommand that was parsed and return its exit status; no error escapes as a traceback."""
    try:
        return int(importlib.import_module(COMMANDS[parsed.command][0]).run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (``veridict detect ... | head``); there is nobody left to tell.
        sys.stdout = None
        return 1
    except ImportError as error:
        print(missing_package(parsed.command, error), file=sys.stderr)
        return 1
    except Exception as error:  # what no command expects is still one sentence for people
        if os.environ.get(TRACEBACK):
            raise
        print(hide_credentials(f"veridict {parsed.command}: {describe_error(error)}"), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
