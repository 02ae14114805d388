"""``veridict serve``: runs the detector until it is stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .interrupts import interrupt_once
from .launcher import LaunchError, ServerSettings, TritonServer
from .manifest import RepositoryError, default_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--repository", type=Path, default=default_repository(), help="model repository to serve")
    parser.add_argument("--profile", choices=("cpu", "gpu"), default="cpu", help="OpenVINO on CPUs, or TensorRT")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8001, help="0 picks a free port (default: %(default)s)")
    parser.add_argument("--http-port", type=int, default=8000, help="health endpoint (default: %(default)s)")
    parser.add_argument("--metrics-port", type=int, default=8002, help="Prometheus endpoint (default: %(default)s)")
    parser.add_argument("--ready-timeout", type=float, default=120.0, help="seconds to wait for the models")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted (status 0) or until the server dies (status 1)."""
    settings = ServerSettings(
        repository=arguments.repository,
        profile=arguments.profile,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        http_port=arguments.http_port,
        metrics_port=arguments.metrics_port,
        ready_timeout=arguments.ready_timeout,
    )
    server = TritonServer(settings, log=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        with interrupt_once(), server:
            ports = server.ports
            print(
                f"ready: gRPC {server.url}, health http://{settings.host}:{ports['http']}/v2/health/ready", flush=True
            )
            print(f"metrics {server.metrics_url}; stop with Ctrl-C", flush=True)
            status = server.wait()
        print(f"veridict serve: tritonserver ended by itself with status {status}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 0
    except (LaunchError, RepositoryError) as error:
        print(f"veridict serve: {error}", file=sys.stderr)
        return 1
