"""The connection options of every command that talks to a detector: one set, read into one :class:`ClientConfig`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from ._config import ClientConfig, Tls


def default_url() -> str:
    """Return ``$VERIDICT_URL``, or the address at which ``veridict serve`` listens."""
    return os.environ.get("VERIDICT_URL", ClientConfig.url)


def add_connection_arguments(
    parser: argparse.ArgumentParser, what: str = "gRPC endpoint", url: str | None = None
) -> None:
    """Add the options; ``url`` replaces the default address, and "" means no server unless one is named."""
    shown = "default: $VERIDICT_URL or %(default)s" if url is None else "default: none"
    parser.add_argument(
        "--url", default=default_url() if url is None else url, help=f"host:port of the {what} ({shown})"
    )
    parser.add_argument("--tls", action="store_true", help="connect with TLS")
    parser.add_argument("--tls-root", type=Path, help="PEM file of the certificates to trust (implies --tls)")
    parser.add_argument("--tls-certificate", type=Path, help="PEM certificate of this client, for mutual TLS")
    parser.add_argument("--tls-key", type=Path, help="PEM key of this client, for mutual TLS")


def read_connection(arguments: argparse.Namespace) -> ClientConfig:
    """Return the configuration that the options describe.

    Raises:
        ValueError: the address is malformed.
    """
    tls = None
    if arguments.tls or arguments.tls_root or arguments.tls_certificate:
        tls = Tls(arguments.tls_root, arguments.tls_certificate, arguments.tls_key)
    return ClientConfig(arguments.url, tls=tls)


def connection_or_exit(arguments: argparse.Namespace, **changes: object) -> ClientConfig:
    """Return the configuration with further settings; exit with status 2 when one is wrong."""
    try:
        return replace(read_connection(arguments), **changes)  # type: ignore[arg-type]
    except ValueError as error:
        print(f"veridict: {error}", file=sys.stderr)
        raise SystemExit(2) from error
