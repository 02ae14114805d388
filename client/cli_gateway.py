"""``veridict gateway``: HTTP in front of a detector, until it is stopped."""

from __future__ import annotations

import argparse
import sys

from veridict.deploy import option_types
from veridict.deploy.ports import AddressError, check_host, free_ports

from ._config import ClientConfig
from .connection import add_connection_arguments, connection_or_exit

#: The largest image that a detector accepts by default.
MAX_BYTES = 20 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=option_types.port, default=8080, help="0 picks a free port (default: %(default)s)"
    )
    parser.add_argument(
        "--deadline", type=option_types.seconds, default=ClientConfig.deadline, help="seconds for one image"
    )
    parser.add_argument(
        "--max-bytes",
        type=option_types.whole(1),
        default=MAX_BYTES,
        help="size of the largest image that is passed on (default: %(default)s)",
    )
    parser.add_argument(
        "--max-in-flight",
        type=option_types.whole(1, 10000),
        default=64,
        help="requests at once; more are answered 429 (default: %(default)s)",
    )
    add_connection_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; return 0, or 2 when nothing can listen on the address."""
    import uvicorn

    from .gateway import create_app

    config = connection_or_exit(arguments, deadline=arguments.deadline)
    try:
        check_host(arguments.host)
        port = free_ports(arguments.host, {"http": arguments.port})["http"]
    except AddressError as error:
        print(f"veridict gateway: {error}", file=sys.stderr)
        return 2
    app = create_app(config, arguments.max_bytes, arguments.max_in_flight)
    print(f"gateway: http://{arguments.host}:{port}/v1/detect -> detector at {arguments.url}", flush=True)
    # The access log would hold the names of callers.
    uvicorn.run(app, host=arguments.host, port=port, log_level="warning", access_log=False, server_header=False)
    return 0
