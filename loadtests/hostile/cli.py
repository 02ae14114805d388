"""``veridict hostile``: checks the answers to hostile images, in process and by a server, and to mutants of them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from veridict.client import ClientConfig, DetectorClient, VeridictError
from veridict.client.connection import add_tls_arguments, read_tls
from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError
from veridict.deploy.manifest import RepositoryError
from veridict.deploy.own_server import own_server
from veridict.deploy.stub_processes import find_stubs

from .generator import hostile_images
from .live import LiveResult, send_all
from .measure import Measured, measure_all
from .mutant_run import run_mutants, save_findings
from .report import document, images_section, list_section, live_section, mutants_section

#: Seconds for one hostile image: a large valid one takes long on a busy machine.
_DEADLINE = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--url", default="", help="also send every kind to the server at host:port (gRPC)")
    parser.add_argument(
        "--serve", action="store_true", help="also send every kind to a server of its own, and watch its processes"
    )
    add_tls_arguments(parser)
    parser.add_argument(
        "--mutants", type=option_types.whole(0), default=0, help="run so many mutants instead of every kind; 0: none"
    )
    parser.add_argument(
        "--seed", type=option_types.whole(0), default=1, help="seed of the mutants (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=option_types.whole(1, 256), default=1, help="processes for mutants (default: %(default)s)"
    )
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="folder for the mutants that were findings")
    parser.add_argument("--report", type=Path, metavar="FILE", help="file for the Markdown (default: printed)")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks; return 0 if every answer was right, 1 if one was wrong, 2 for invalid options."""
    try:
        tls = read_tls(arguments)
        if arguments.url and arguments.serve:
            raise ValueError("--url and --serve exclude each other")
        if tls is not None and not arguments.url:
            raise ValueError("TLS options need --url")
        if arguments.mutants and (arguments.url or arguments.serve):
            raise ValueError("mutants run in process: leave out --url and --serve")
        config = ClientConfig(arguments.url or ClientConfig.url, deadline=_DEADLINE, tls=tls)
    except ValueError as error:
        print(f"veridict hostile: {error}", file=sys.stderr)
        return 2
    try:
        sections, sound = _run_mutants(arguments) if arguments.mutants else _run_kinds(arguments, config)
    except (LaunchError, RepositoryError, VeridictError) as error:
        print(f"veridict hostile: {error}", file=sys.stderr)
        return 1
    text = document(sections, shlex.join(["veridict", *sys.argv[1:]]))
    if arguments.report is None:
        print(text)
    else:
        arguments.report.write_text(text)
    return 0 if sound else 1


def _run_mutants(arguments: argparse.Namespace) -> tuple[list[str], bool]:
    result = run_mutants(arguments.mutants, arguments.seed, arguments.workers, log=_log)
    if arguments.save is not None and result.findings:
        save_findings(result, arguments.save)
    return [mutants_section(result, arguments.seed)], not result.findings


def _run_kinds(arguments: argparse.Namespace, config: ClientConfig) -> tuple[list[str], bool]:
    measured = list(_measured())
    sections = [images_section(measured)]
    sound = all(item.within_limits and not item.fault for item in measured)
    if arguments.url or arguments.serve:
        live = _send_to_own_server() if arguments.serve else _send(config)
        sections.append(live_section(live, arguments.serve))
        sound = sound and not live.faults
    return [*sections, list_section(measured)], sound


def _measured() -> Iterator[Measured]:
    for item in measure_all(hostile_images()):
        if item.fault or not item.within_limits:
            _log(f"{item.name}: {item.fault or 'above the limits'} ({item.cpu_ms:.0f} ms, {item.mib:.1f} MiB)")
        yield item


def _send(config: ClientConfig) -> LiveResult:
    with DetectorClient(config=config) as client:
        return send_all(client, hostile_images(), log=_log)


def _send_to_own_server() -> LiveResult:
    _log("starting tritonserver on free loopback ports ...")
    with own_server() as server, DetectorClient(config=ClientConfig(server.url, deadline=_DEADLINE)) as client:
        return send_all(client, hostile_images(), lambda: find_stubs(server.pid), _log)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
