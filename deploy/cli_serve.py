"""``veridict serve``: runs the detector until it is stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import option_types
from .hardening import read_admin_key
from .interrupts import interrupt_once
from .launcher import LaunchError, ServerSettings, TritonServer
from .manifest import RepositoryError, default_repository
from .server_tls import ServerTls
from .structured_log import format_triton_line, print_line
from .supervisor import Supervisor
from .tracing import add_telemetry_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--repository", type=Path, default=default_repository(), help="model repository to serve")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="OpenVINO on CPUs, or TensorRT")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--grpc-port", type=option_types.port, default=8001, help="0 picks a free port (default: %(default)s)"
    )
    parser.add_argument(
        "--http-port", type=option_types.port, default=8000, help="health endpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--metrics-port", type=option_types.port, default=8002, help="Prometheus endpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--ready-timeout", type=option_types.seconds, default=120.0, help="seconds to wait for the models"
    )
    parser.add_argument(
        "--restart",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start the server again when it ends by itself or a Python process of it dies; without it the command "
        "then ends with status 1, for an orchestrator that restarts it",
    )
    parser.add_argument(
        "--standby",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="keep a second server loaded, which takes over within a second when the server ends, and needs as much "
        "memory (default: with --profile cpu and --restart)",
    )
    parser.add_argument(
        "--triton-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further option of tritonserver, such as grpc-max-connection-age=30000; may be given several times",
    )
    parser.add_argument(
        "--known-content",
        type=Path,
        metavar="FOLDER",
        help="search each image's PDQ hash in the banks of known pictures in this folder, which are read again when "
        "they change (default: $VERIDICT_KNOWN_CONTENT)",
    )
    parser.add_argument(
        "--policies",
        type=Path,
        metavar="FOLDER",
        help="policies that requests can name: a JSON file each, which are read again when they change (default: "
        "$VERIDICT_POLICIES)",
    )
    add_tls_arguments(parser)
    add_telemetry_arguments(parser)
    parser.add_argument(
        "--trace-rate",
        type=option_types.whole(0, 1_000_000),
        default=0,
        help="with --otlp: trace one in this many requests that carry no traceparent header; those that carry one are "
        "always traced; 0 traces no others (default: %(default)s)",
    )


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of TLS and of the admin key."""
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate of the gRPC endpoint, with its chain")
    parser.add_argument("--tls-key", type=Path, help="PEM key of --tls-cert, unencrypted")
    parser.add_argument(
        "--tls-client-ca",
        type=Path,
        help="PEM certificates of the authority of the clients: only clients with a certificate of it can connect",
    )
    parser.add_argument(
        "--admin-key-file",
        type=Path,
        help="file with the key that opens Triton's administration (default: a random key that nobody has)",
    )


def read_tls(arguments: argparse.Namespace) -> ServerTls | None:
    """Return the TLS files, checked; None without TLS options.

    Raises:
        ValueError: an option is missing, or a file cannot be used.
    """
    files = {name: getattr(arguments, name) for name in ("tls_cert", "tls_key", "tls_client_ca")}
    if not any(files.values()):
        return None
    for name in ("tls_cert", "tls_key"):
        if files[name] is None:
            raise ValueError(f"TLS needs --tls-cert and --tls-key: --{name.replace('_', '-')} is missing")
    tls = ServerTls(*files.values())
    tls.check()
    return tls


def print_server_line(line: str, form: str) -> None:
    """Print a line of tritonserver's log to standard error, as ``text`` or as ``json``."""
    shown = format_triton_line(line) if form == "json" else line
    if shown or form == "text":
        print(shown, file=sys.stderr, flush=True)


def announce(server: TritonServer) -> None:
    """Print where a server that became ready listens."""
    health = f"http://{server.settings.host}:{server.ports['http']}/v2/health/ready"
    tls = f" with {server.settings.tls.name}" if server.settings.tls is not None else ""
    print(f"ready: gRPC {server.url}{tls}, health {health}", flush=True)
    print(f"metrics {server.metrics_url}; stop with Ctrl-C", flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted (status 0), or until the server cannot be started or is not to be restarted (1).

    TLS files, an admin key or a folder of banks or policies that cannot be used are usage errors (2).
    """
    try:
        tls = read_tls(arguments)
        admin_key = read_admin_key(arguments.admin_key_file) if arguments.admin_key_file is not None else ""
        if arguments.known_content is not None and not arguments.known_content.is_dir():
            raise ValueError(f"--known-content: there is no folder {arguments.known_content}")
        if arguments.policies is not None and not arguments.policies.is_dir():
            raise ValueError(f"--policies: there is no folder {arguments.policies}")
    except ValueError as error:
        print_line(f"veridict serve: {error}", arguments.log_format)
        return 2
    settings = ServerSettings(
        repository=arguments.repository,
        profile=arguments.profile,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        ready_timeout=arguments.ready_timeout,
        otlp=arguments.otlp,
        trace_rate=arguments.trace_rate,
        options=tuple(f"--{option}" for option in arguments.triton_option),
        tls=tls,
        admin_key=admin_key,
        known_content=arguments.known_content,
        policies=arguments.policies,
    )
    standby = arguments.profile == "cpu" if arguments.standby is None else arguments.standby
    supervisor = Supervisor(
        settings, lambda line: print_server_line(line, arguments.log_format), announce, standby=standby
    )
    try:
        with interrupt_once():
            reason = supervisor.run(arguments.restart)
        print_line(f"veridict serve: {reason}", arguments.log_format)
        return 1
    except KeyboardInterrupt:
        print_line("stopped", arguments.log_format, "INFO")
        return 0
    except (LaunchError, RepositoryError, ValueError) as error:
        print_line(f"veridict serve: {error}", arguments.log_format)
        return 1
