"""``veridict detect PATH...``: verdicts as text or JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from veridict.deploy import option_types

from ._config import ClientConfig
from ._errors import ServerError, TlsError
from ._sync import DetectorClient
from ._types import Result
from .connection import add_connection_arguments, add_policy_argument, connection_or_exit
from .formats import FORMATS

_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".mpo", ".png", ".apng", ".webp"}
#: Files that macOS writes beside an image on foreign disks and in archives: metadata under the image's own suffix.
_APPLE_DOUBLE = "._"
_BAR_FROM = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="image files, folders (searched through), or - for stdin"
    )
    parser.add_argument(
        "--format",
        choices=("text", *FORMATS),
        default="text",
        help="text for people, or one JSON document per line: Veridict's own, or shaped like the answers of Hive or "
        "Sightengine (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    parser.add_argument(
        "--concurrency", type=option_types.whole(1, 10000), default=ClientConfig.concurrency, help="requests in flight"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--deadline", type=option_types.seconds, default=ClientConfig.deadline, help="seconds for one image"
    )
    add_policy_argument(parser)
    add_connection_arguments(parser)


def find_images(paths: list[str]) -> list[str]:
    """Return the files to judge: files as they are named, folders by suffix and sorted, ``-`` once.

    Raises:
        ValueError: a path does not exist, a folder holds no image, or ``-`` is named twice.
    """
    found: list[str] = []
    for path in paths:
        if path != "-" and Path(path).is_dir():
            inside = sorted(str(p) for p in Path(path).rglob("*") if is_image_name(p.name) and p.is_file())
            if not inside:
                raise ValueError(f"no JPEG, PNG or WebP file in {path}")
            found += inside
        elif path == "-" or Path(path).exists():
            found.append(path)
        else:
            raise ValueError(f"no such file or folder: {path}")
    if found.count("-") > 1:
        raise ValueError("standard input can be read once")
    return found


def is_image_name(name: str) -> bool:
    """Return whether a file in a folder is taken for an image: by its suffix; a file name without folders."""
    return Path(name).suffix.lower() in _SUFFIXES and not name.startswith(_APPLE_DOUBLE)


def _read(names: list[str]) -> Iterator[str | bytes]:
    for name in names:
        yield sys.stdin.buffer.read() if name == "-" else name


def _print(name: str, result: Result, form: str) -> None:
    shown = "stdin" if name == "-" else name
    if form in FORMATS:
        print(json.dumps(FORMATS[form](shown, result)))
    elif result.verdict is not None:
        print(f"{shown}\n{result.verdict.to_text()}\n")
    elif result.error is not None:
        print(f"{shown}: [{result.error.code}] {result.error.message}", file=sys.stderr)


def run(arguments: argparse.Namespace) -> int:
    """Judge everything; return 0 when all were judged, 1 when some failed, 2 on usage errors."""
    from tqdm import tqdm

    try:
        names = find_images(arguments.paths)
    except ValueError as error:
        print(f"veridict detect: {error}", file=sys.stderr)
        return 2
    failed = 0
    config = connection_or_exit(
        arguments, deadline=arguments.deadline, concurrency=arguments.concurrency, policy=arguments.policy
    )
    with DetectorClient(config=config) as client:
        hidden = arguments.quiet or len(names) < _BAR_FROM or not sys.stderr.isatty()
        with tqdm(total=len(names), unit="image", disable=hidden) as bar:
            for result in client.detect_many(_read(names)):
                with tqdm.external_write_mode(file=sys.stdout):
                    _print(names[result.index], result, arguments.format)
                bar.update()
                failed += result.error is not None
                if isinstance(result.error, ServerError) and failed == 1 and not client.ready():
                    if not isinstance(result.error, TlsError):
                        print(
                            f"veridict detect: no detector at {arguments.url}: start one with veridict serve",
                            file=sys.stderr,
                        )
                    return 1
    if failed:
        print(f"{failed} of {len(names)} failed", file=sys.stderr)
    return 1 if failed else 0
