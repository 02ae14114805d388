"""``veridict bench``: the served detector, the same stages in one process, and other ways to serve it, in one run.

Everything is measured in interleaved rounds on one machine; the report names the command, the versions and the machine.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

from tritonclient.utils import InferenceServerException

from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError
from veridict.deploy.manifest import RepositoryError, default_repository

from ..machine import describe_gpus
from ..sample_images import SIZES
from ..tables import comparison_table
from .forensics_cost import compare_forensics, compared_images, forensics_table, time_forensics
from .known_content import ENTRIES, hash_table, search_table, time_searches
from .parts import add_networks, add_processors, add_served_parts
from .peers import PeerError
from .report import Report

PARTS = ("serving", "sweeps", "stages", "forensics", "known-content", "networks")
#: The parts that need no server.
_WITHOUT_SERVER = {"forensics", "known-content", "networks"}
_NO_GPU = (
    "Not run: nothing here was measured on a GPU. With TensorRT engines in the repository, "
    "`veridict bench --profile gpu` measures the same lines (without the in-process loop and the peers that compute on "
    "the CPU), and `--networks` adds a column where onnxruntime has its CUDA provider."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--seconds", type=option_types.seconds, default=1.8, help="seconds per line and round (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=option_types.whole(1, 10000), default=3, help="interleaved rounds (default: %(default)s)"
    )
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES), help="sizes of the images")
    parser.add_argument(
        "--concurrency",
        nargs="+",
        type=option_types.whole(1, 10000),
        default=[1, 8, 16],
        help="numbers of concurrent clients",
    )
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="compare with other ways to serve it"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--networks", action="store_true", help="measure only the networks, without a server")
    parser.add_argument(
        "--processors", action="store_true", help="measure only the image encoder, as other processors compute it"
    )
    parser.add_argument(
        "--labelled", type=Path, metavar="FILE.csv", help="manifest; its val images give --processors an AUC"
    )
    parser.add_argument(
        "--images",
        type=option_types.whole(1),
        default=300,
        help="number of images drawn from --labelled (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=option_types.whole(1, 1024), default=1, help="threads of --networks (default: %(default)s)"
    )
    parser.add_argument("--repository", type=Path, default=default_repository(), help="model repository to serve")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="gpu: TensorRT engines on this GPU")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="also write the report to this file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")


def command_line(arguments: argparse.Namespace) -> str:
    """Return the command that repeats this run: the options that differ from the defaults, without paths."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["veridict", "bench"]
    for name, value in vars(parser.parse_args([])).items():
        given = getattr(arguments, name, value)
        if given == value or name in ("output", "json", "repository", "labelled"):
            continue
        option = f"--{name}"
        if isinstance(given, bool):
            words.append(option if given else f"--no-{name}")
        else:
            items = given if isinstance(given, list) else [given]
            words += [option, *(f"{i:g}" if isinstance(i, float) else str(i) for i in items)]
    return shlex.join(words)


def find_problem(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments; "" when they are valid."""
    if arguments.output is not None and not arguments.output.resolve().parent.is_dir():
        return f"--output: there is no folder {arguments.output.parent}"
    if arguments.profile == "gpu" and not arguments.networks and not describe_gpus():
        return "--profile gpu: nvidia-smi lists no GPU on this machine"
    return ""


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the report; return 0, 1 when a server or peer fails, 2 for invalid arguments."""
    if problem := find_problem(arguments):
        print(f"veridict bench: {problem}", file=sys.stderr)
        return 2
    report = Report(command_line(arguments))
    try:
        if arguments.processors:
            add_processors(arguments, report)
        elif arguments.networks:
            add_networks(arguments, report)
        else:
            _measure_parts(arguments, report)
        if arguments.profile != "gpu":
            report.add("GPU", _NO_GPU)
    except (
        LaunchError,
        RepositoryError,
        PeerError,
        InferenceServerException,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        print(f"veridict bench: {error}", file=sys.stderr)
        return 1
    text = report.to_markdown()
    if arguments.output is not None:
        arguments.output.write_text(text)
    print(report.to_json() if arguments.json else text)
    return 0


def _measure_parts(arguments: argparse.Namespace, report: Report) -> None:
    """Measure the chosen parts; the comparisons come first in the report."""
    # Forensics come first, with the C library's default settings for both sides: the in-process loop makes this process
    # keep freed memory, which would save the textbook's large arrays a third of their time.
    measured = "forensics" in arguments.parts
    forensics = time_forensics(compared_images(), arguments.rounds, arguments.seconds) if measured else {}
    if set(arguments.parts) - _WITHOUT_SERVER:
        with ExitStack() as stack:
            add_served_parts(arguments, report, stack)
    if forensics:
        report.comparisons += compare_forensics(forensics)
        report.add("Decoding and forensics on one thread", forensics_table(forensics))
    if "known-content" in arguments.parts:
        found = time_searches(ENTRIES, arguments.seconds)
        report.add("Known content on one thread", f"{search_table(found, ENTRIES)}\n\n{hash_table(arguments.seconds)}")
    if "networks" in arguments.parts:
        add_networks(arguments, report)
    if report.comparisons:
        report.sections.insert(0, ("Comparisons", comparison_table(report.comparisons)))
