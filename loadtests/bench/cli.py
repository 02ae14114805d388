"""``veridict bench``: the served detector beside the bare computation and beside other ways to serve it, in one run.

Everything is measured in interleaved rounds on one machine; the report says with which command, versions and machine.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from veridict.deploy.launcher import LaunchError, ServerSettings
from veridict.deploy.own_server import own_server
from veridict.deploy.repository import RepositoryError, default_repository
from veridict.forensics.decode import decode_image
from veridict.forensics.faces import clip_view

from ..machine import describe_gpus, describe_machine, installed_versions
from ..rounds import measure_tasks
from ..sample_images import SIZES, photograph
from ..tables import Ratio, Row, describe_noise, ratio_table, serving_table
from .forensics_cost import compare_forensics, compared_pictures, forensics_table, time_forensics
from .networks import TURN, has_cuda, measure_networks
from .peers import PeerError
from .processors import labelled_views, measure_processors
from .serving import (
    Cold,
    choose_peers,
    cold_table,
    compare,
    first_answer,
    load_bare,
    plan_serving,
    plan_sweeps,
    rows_of,
    running_peer,
    sweep_table,
)
from .stages import Profile, load_table, profile_alone, profile_loaded, profile_table
from .subjects import Bare, PeerSubject, Served

__all__ = ["SIZES", "add_arguments", "describe_machine", "photograph", "run"]

PARTS = ("serving", "sweeps", "stages", "forensics", "networks")
#: Parts that need no server.
_ALONE = {"forensics", "networks"}
_NO_GPU = (
    "Not run: nothing here was measured on a GPU. With TensorRT engines in the repository, "
    "`veridict bench --profile gpu` measures the same lines (without the bare loop and the peers that compute on the "
    "CPU), and `--networks` adds a column where onnxruntime has its CUDA provider."
)


@dataclass
class Report:
    """What a run found: the tables in order, and the same as plain values."""

    command: str
    sections: list[tuple[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    cold: list[Cold] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)

    def add(self, title: str, *paragraphs: str) -> None:
        """Append a section."""
        self.sections.append((title, "\n\n".join(paragraphs)))

    def header(self) -> dict[str, str]:
        """Return command, machine, date and versions."""
        versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        return {"command": self.command, "machine": describe_machine(), "date": today, "versions": versions}

    def to_markdown(self) -> str:
        """Return the whole report."""
        head = self.header()
        lines = (f"`{head['command']}`, {head['date']}", *(f"{k.title()}: {head[k]}" for k in ("machine", "versions")))
        parts = [
            "# Serving benchmark",
            "\n\n".join(f"{line}." for line in lines),
            *(f"## {title}\n\n{text}" for title, text in self.sections),
        ]
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """Return the figures as a JSON document."""
        document: dict[str, Any] = {"schema": "veridict-bench/1", **self.header()}
        for name in ("rows", "ratios", "cold", "profiles"):
            document[name] = [asdict(item) for item in getattr(self, name)]
        for ratio, item in zip(self.ratios, document["ratios"], strict=True):
            item["met"] = ratio.met
        document["sections"] = dict(self.sections)
        return json.dumps(document, indent=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--seconds", type=float, default=1.8, help="seconds per line and round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES), help="pictures to send")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 16], help="clients at once")
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="compare with other ways to serve it"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--networks", action="store_true", help="time the networks alone, and nothing else")
    parser.add_argument(
        "--processors", action="store_true", help="the image encoder as other processors compute it, and nothing else"
    )
    parser.add_argument(
        "--labelled", type=Path, metavar="FILE.csv", help="manifest whose val pictures give --processors its AUC"
    )
    parser.add_argument("--pictures", type=int, default=300, help="drawn from it (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of --networks (default: %(default)s)")
    parser.add_argument("--repository", type=Path, default=default_repository(), help="model repository to serve")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="gpu: TensorRT engines on this GPU")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the report there as well")
    parser.add_argument("--json", action="store_true", help="print JSON in place of Markdown")


def command_line(arguments: argparse.Namespace) -> str:
    """Return the command that repeats this run: the options that differ from the defaults, but no paths."""
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


def check(arguments: argparse.Namespace) -> str:
    """Return what is wrong with the arguments; "" when nothing is."""
    if arguments.seconds <= 0 or arguments.rounds < 1 or arguments.threads < 1:
        return "--seconds must be positive, --rounds and --threads at least 1"
    if min(arguments.concurrency) < 1:
        return "--concurrency must be at least 1"
    if arguments.output is not None and not arguments.output.resolve().parent.is_dir():
        return f"--output: there is no folder {arguments.output.parent}"
    if arguments.profile == "gpu" and not arguments.networks and not describe_gpus():
        return "--profile gpu: nvidia-smi lists no GPU on this machine"
    return ""


def run(arguments: argparse.Namespace) -> int:
    """Measure and print the report; return 0, 1 when a server or peer fails, 2 for unusable arguments."""
    if problem := check(arguments):
        print(f"veridict bench: {problem}", file=sys.stderr)
        return 2
    report = Report(command_line(arguments))
    try:
        if arguments.processors:
            processors(arguments, report)
        elif arguments.networks:
            networks(arguments, report)
        else:
            # First, with the C library's own settings for both: the bare loop makes this process keep freed memory,
            # and that spares the textbook's large arrays a third of their time.
            alone = "forensics" in arguments.parts
            found = time_forensics(compared_pictures(), arguments.rounds, arguments.seconds) if alone else {}
            if set(arguments.parts) - _ALONE:
                with ExitStack() as stack:
                    measure_served(arguments, report, stack)
            if found:
                report.ratios += compare_forensics(found)
                report.add("Decoding and forensics on one thread", forensics_table(found))
            if "networks" in arguments.parts:
                networks(arguments, report)
            if report.ratios:
                report.sections.insert(0, ("Comparisons", ratio_table(report.ratios)))
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


def networks(arguments: argparse.Namespace, report: Report) -> None:
    """Time the networks alone."""
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    gpu = "" if has_cuda() else " This onnxruntime has no CUDA provider: nothing was run on a GPU."
    note = f"Medians of calls, in turns of {TURN} per runtime, {threads}, random pixels.{gpu}"
    report.add("Networks alone", note, measure_networks(arguments.repository, arguments.seconds, arguments.threads))


def processors(arguments: argparse.Namespace, report: Report) -> None:
    """Measure the image encoder by processor, on labelled pictures where there are any."""
    if arguments.labelled is None:
        views, labels = np.stack([clip_view(decode_image(photograph(640, 480)).pixels)] * 8), [0] * 8
        note = "One photograph eight times: no AUC without --labelled."
    else:
        views, labels = labelled_views(arguments.labelled, arguments.pictures)
        note = f"{len(labels)} pictures of the val split, half of them fake."
    note += " Medians, every core busy, one picture per inference; other processors by limiting oneDNN's instructions."
    report.add("Processors", note, measure_processors(arguments.repository, views, labels, arguments.seconds))


def measure_served(arguments: argparse.Namespace, report: Report, stack: ExitStack) -> None:
    """Start everything and measure the parts that need a server; the stack stops it."""
    settings = ServerSettings(
        repository=arguments.repository, profile=arguments.profile, grpc_port=0, http_port=0, metrics_port=0
    )
    started = time.perf_counter()
    server = stack.enter_context(own_server(settings))
    ready = time.perf_counter() - started
    served = Served(server)
    report.cold.append(Cold(served.name, ready, first_answer(served, photograph(640, 480))))
    gpu = arguments.profile == "gpu"
    if "serving" in arguments.parts:
        bare: list[Bare] = []
        if not gpu:  # the bare loop runs the CPU profile's networks
            bare, cold = load_bare(arguments.repository)
            report.cold.append(cold)
        peers, notes = start_peers(arguments, report, stack) if arguments.peers else ([], [])
        measure_serving(arguments, report, served, bare, peers, notes)
    clients = max(arguments.concurrency)
    if "sweeps" in arguments.parts:
        for title, tasks in plan_sweeps(served, clients).items():
            results = measure_tasks(tasks, arguments.rounds, arguments.seconds, title)
            report.add(f"Cost against {title}", sweep_table(title, results))
    if "stages" in arguments.parts:
        pictures = {size: photograph(*SIZES[size]) for size in arguments.sizes}
        seconds = arguments.seconds * arguments.rounds / 2
        for size, data in pictures.items():
            report.profiles.append(profile_alone(served, size, data, seconds))
        loads = [
            load for size, data in pictures.items() for load in profile_loaded(served, size, data, clients, seconds)
        ]
        report.add(
            "Where the milliseconds go",
            "One image after the other, means; the stages add up to the request.",
            profile_table(report.profiles),
            f"At concurrency {clients}, from Triton's statistics; compute counts a batch once, and models compute at "
            "the same time on the same cores.",
            load_table(loads),
        )


def start_peers(arguments: argparse.Namespace, report: Report, stack: ExitStack) -> tuple[list[PeerSubject], list[str]]:
    """Start the peers that are installed; return them, and a line on each peer, or on why it is left out."""
    subjects, notes = [], []
    for peer in choose_peers(arguments.profile == "gpu"):
        if missing := peer.missing():
            notes.append(
                f"- {peer.name}: left out, not installed: {', '.join(missing)} (pip install 'veridict[bench]')"
            )
            continue
        peer_context = running_peer(peer, arguments.repository, arguments.profile == "gpu")
        subject, cold = stack.enter_context(peer_context)
        subjects.append(subject)
        report.cold.append(cold)
        notes.append(f"- {peer.name}: {peer.note}.")
    return subjects, notes


def measure_serving(
    arguments: argparse.Namespace,
    report: Report,
    served: Served,
    bare: list[Bare],
    peers: list[PeerSubject],
    notes: list[str],
) -> None:
    """Measure the serving table and draw the comparisons from it."""
    tasks = plan_serving(served, bare, peers, arguments.sizes, sorted(set(arguments.concurrency)))
    results = measure_tasks(tasks, arguments.rounds, arguments.seconds, "serving")
    report.rows += rows_of(results)
    for size in arguments.sizes:
        report.ratios += compare(results, size)
    report.add(
        "Serving, warm",
        f"{arguments.rounds} interleaved rounds of {arguments.seconds:g} s per line: rates and cores are medians over "
        "rounds, percentiles are over all requests. Cores and memory are those of the server's process tree (of the "
        "bare loop, cores of the benchmark's process). The load generator is a closed loop of threads in the "
        "benchmark's process, on the same cores: gRPC for Veridict, keep-alive HTTP for the others; the last column is "
        "its own CPU time. No peer runs while another line is measured.",
        describe_noise(block for blocks in results.values() for block in blocks),
        serving_table(report.rows),
        "\n".join(notes),
    )
    report.add("Cold starts", "The first answer is to a 640x480 picture.", cold_table(report.cold))
