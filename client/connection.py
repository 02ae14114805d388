"""The connection options of every command that talks to a detector: one set, read into one :class:`ClientConfig`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from ._config import DEFAULT_URL, ClientConfig, Tls


def default_url() -> str:
    """Return ``$VERIDICT_URL``, or the address at which ``veridict serve`` listens."""
    return os.environ.get("VERIDICT_URL", DEFAULT_URL)


def add_connection_arguments(
    parser: argparse.ArgumentParser, what: str = "gRPC endpoint", url: str | None = None
) -> None:
    """Add the options; ``url`` replaces the default address, and "" means no server unless one is named."""
    shown = "default: $VERIDICT_URL or %(default)s" if url is None else "default: none"
    parser.add_argument(
        "--url",
        default=default_url() if url is None else url,
        help=f"host:port of the {what}, several separated by commas, or dns:///name:port ({shown})",
    )
    add_tls_arguments(parser)


def add_policy_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--policy``: the name of a policy that is in force on the server."""
    parser.add_argument("--policy", default="", metavar="NAME", help="the policy of the server that judges")


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the TLS options; each of them implies TLS."""
    parser.add_argument("--tls", action="store_true", help="connect with TLS")
    parser.add_argument("--tls-root", type=Path, help="PEM file of the certificates to trust (implies --tls)")
    parser.add_argument(
        "--tls-certificate", type=Path, help="PEM certificate of this client, for mutual TLS (implies --tls)"
    )
    parser.add_argument("--tls-key", type=Path, help="PEM key of this client, for mutual TLS (implies --tls)")


def read_tls(arguments: argparse.Namespace) -> Tls | None:
    """Return the TLS options, or None for a plaintext connection: only when no TLS option was given.

    Raises:
        ValueError: a file is missing or is not what it should be, or a key has no certificate; the message says which.
    """
    files = (arguments.tls_root, arguments.tls_certificate, arguments.tls_key)
    if not arguments.tls and all(path is None for path in files):
        return None
    tls = Tls(*files)
    tls.check_files()
    return tls


def read_connection(arguments: argparse.Namespace) -> ClientConfig:
    """Return the configuration that the options describe.

    Raises:
        ValueError: the address is malformed, or a TLS file cannot be used.
    """
    return ClientConfig(arguments.url, tls=read_tls(arguments))


def connection_or_exit(arguments: argparse.Namespace, **changes: object) -> ClientConfig:
    """Return the configuration with further settings; exit with status 2 when one is wrong."""
    try:
        return replace(read_connection(arguments), **changes)  # type: ignore[arg-type]
    except ValueError as error:
        print(f"veridict: {error}", file=sys.stderr)
        raise SystemExit(2) from error
