"""``veridict ui``: the command line."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from pathlib import Path

from veridict.client.connection import add_connection_arguments, add_policy_argument, connection_or_exit, default_url
from veridict.explain.jobs.cli_worker import add_queue_arguments, queue_settings

from .. import option_types
from ..interrupts import interrupt_once
from ..launcher import LaunchError
from ..manifest import RepositoryError
from ..ports import AddressError, free_ports
from .database import DatabaseError
from .settings import UiSettings
from .store import LEASE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--queue",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="folders of images, which are judged, and .jsonl files as veridict detect --json writes them; answers of "
        "low confidence become items, also those that are added later",
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="folders in which the paths of .jsonl files may lie, besides the file's own folder",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=option_types.port, default=8501, help="0 picks a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="host names under which a proxy offers the page; on a loopback address others are refused",
    )
    parser.add_argument(
        "--database",
        default="",
        help="SQLAlchemy URL (default: $VERIDICT_REVIEW_DATABASE, else an SQLite file in --state)",
    )
    parser.add_argument(
        "--keep-days",
        type=option_types.real(0.0, 36500.0, above=True),
        default=UiSettings.keep_days,
        help="days after which the copy of an image is deleted, decided or not (default: %(default)g)",
    )
    parser.add_argument(
        "--lease",
        type=option_types.real(10.0, 86400.0),
        default=LEASE,
        help="seconds for which an item stays with a reviewer whose page is closed (default: %(default)g)",
    )
    parser.add_argument(
        "--user-header", default="", metavar="NAME", help="HTTP header in which a proxy with sign-in names the reviewer"
    )
    parser.add_argument("--no-worker", action="store_true", help="start no worker of explanations")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="write the decisions as labelled data into a new folder, and end; nothing is started",
    )
    add_connection_arguments(parser)
    add_policy_argument(parser)
    add_queue_arguments(parser)


def read_settings(arguments: argparse.Namespace) -> UiSettings:
    """Return the settings that the options and the environment describe.

    Raises:
        ValueError: a source does not exist.
    """
    for path in (*arguments.queue, *arguments.images):
        if not path.exists():
            raise ValueError(f"no such file or folder: {path}")
    server = connection_or_exit(arguments)
    explanations = queue_settings(arguments)
    folder = explanations.state.resolve() / "review"
    tls = None
    if server.tls is not None:
        tls = tuple(str(path or "") for path in (arguments.tls_root, arguments.tls_certificate, arguments.tls_key))
    return UiSettings(
        url=str(server.url),
        database=arguments.database
        or os.environ.get("VERIDICT_REVIEW_DATABASE")
        or f"sqlite:///{folder / 'review.sqlite'}",
        folder=folder / "images",
        keep_days=arguments.keep_days,
        lease=arguments.lease,
        user_header=arguments.user_header,
        policy=arguments.policy,
        tls=tls,  # type: ignore[arg-type]
        redis_url=explanations.redis_url,
        store_url=explanations.store_url,
        state=str(explanations.state.resolve()),
        repository=str(explanations.repository or ""),
        sources=tuple(str(path.resolve()) for path in arguments.queue),
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the page until interrupted (status 0); 1 when something cannot be started, 2 on usage errors."""
    try:
        settings = read_settings(arguments)
    except ValueError as error:
        print(f"veridict ui: {error}", file=sys.stderr)
        return 2
    settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        if arguments.export is not None:
            return _export(settings, arguments.export)
        return _serve(settings, arguments)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    except (AddressError, DatabaseError, LaunchError, RepositoryError, OSError) as error:
        print(f"veridict ui: {str(error).replace('--page-port', '--port')}", file=sys.stderr)
        return 1


def _export(settings: UiSettings, folder: Path) -> int:
    from .export import write_folder
    from .launch import make_feed

    feed = make_feed(settings)
    exported = write_folder(feed.store, feed.images, folder)
    print(f"{folder}: {exported}")
    print(f"veridict evaluate --labelled {folder / 'manifest.csv'}")
    return 0


def _serve(settings: UiSettings, arguments: argparse.Namespace) -> int:
    from .launch import LOOPBACK, detector, keep_feeding, make_feed, page_command, wait_for_page, worker
    from .processes import child

    port = free_ports(arguments.host, {"page": arguments.port})["page"]
    feed = make_feed(settings, tuple(path.resolve() for path in arguments.images))
    own = arguments.url == default_url() and "VERIDICT_URL" not in os.environ
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        stack.enter_context(interrupt_once())
        settings = stack.enter_context(detector(settings, own))
        log = settings.folder.parent / "worker.log"
        settings = stack.enter_context(worker(settings, not arguments.no_worker, log))
        page = stack.enter_context(
            child(page_command(arguments.host, port, arguments.allow_host), settings.to_environment())
        )
        stack.callback(stop.set)
        threading.Thread(target=keep_feeding, args=(feed, settings, stop), daemon=True).start()
        wait_for_page(arguments.host, port)
        print(f"ready: http://{arguments.host}:{port}; stop with Ctrl-C", flush=True)
        if arguments.host not in LOOPBACK:
            print(
                "veridict ui: everybody who reaches this address sees the images and can decide; "
                "put a proxy with sign-in before it",
                file=sys.stderr,
            )
        status = page.wait()
        print(f"veridict ui: the page ended with status {status}", file=sys.stderr)
        return 1
