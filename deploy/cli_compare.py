"""``veridict compare OLD NEW PATH...``: the same images to two servers; exit status 0 when their answers are close."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from veridict.client import DetectorClient, InputError, VeridictError
from veridict.client.cli_detect import find_images
from veridict.client.connection import add_policy_argument, add_tls_arguments, connection_or_exit
from veridict.forensics.contract import Verdict

from . import option_types
from .compare import Pair, Reply, compare_pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    shape = "host:port, several separated by commas, or dns:///name:port"
    parser.add_argument("old", metavar="OLD", help=f"gRPC endpoint of the server that judges now: {shape}")
    parser.add_argument("new", metavar="NEW", help="gRPC endpoint of the server that is to replace it")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files and folders (searched through)")
    parser.add_argument(
        "--most-flips",
        type=option_types.real(0.0, 1.0),
        default=0.005,
        metavar="SHARE",
        help="largest share of the compared images with another verdict, or refused by one server only "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--largest-difference",
        type=option_types.real(0.0, 100.0),
        metavar="LOGITS",
        help="largest difference that one image may have between the logits of its fake probability (default: any)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument(
        "--concurrency", type=option_types.whole(1, 1000), default=4, help="requests in flight (default: %(default)s)"
    )
    parser.add_argument(
        "--deadline", type=option_types.seconds, default=30.0, help="seconds for one image (default: %(default)s)"
    )
    add_policy_argument(parser)
    add_tls_arguments(parser)


def connect(arguments: argparse.Namespace, url: str) -> DetectorClient:
    """Return a client of one of the servers; exit with status 2 when the address or a TLS file is wrong."""
    named = argparse.Namespace(**{**vars(arguments), "url": url})
    return DetectorClient(config=connection_or_exit(named, deadline=arguments.deadline, policy=arguments.policy))


def ask(client: DetectorClient, data: bytes) -> Reply:
    """Return what a server answers about an encoded image; its errors are replies too."""
    started = time.perf_counter()
    try:
        answer: Verdict | VeridictError = client.detect(data)
    except VeridictError as error:
        answer = error
    return Reply.of(answer, time.perf_counter() - started)


def ask_both(name: str, old: DetectorClient, new: DetectorClient) -> Pair:
    """Return the replies about one file, from one server after the other; an unreadable file is sent to none."""
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        unreadable = Reply.of(InputError(f"cannot read the file: {error.strerror}"))
        return Pair(name, unreadable, unreadable)
    return Pair(name, ask(old, data), ask(new, data))


def ask_all(names: list[str], old: DetectorClient, new: DetectorClient, concurrency: int) -> Iterator[Pair]:
    """Yield the pair of each file in order, with at most ``concurrency`` requests in flight."""
    pool = ThreadPoolExecutor(concurrency)
    try:
        yield from pool.map(lambda name: ask_both(name, old, new), names)
    finally:
        pool.shutdown(cancel_futures=True)


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when all images were compared and the bounds hold, 1 when not, 2 on usage errors."""
    from tqdm import tqdm

    try:
        names = find_images(arguments.paths)
        if "-" in names:
            raise ValueError("name files or folders: standard input is not read")
    except ValueError as error:
        print(f"veridict compare: {error}", file=sys.stderr)
        return 2
    with connect(arguments, arguments.old) as old, connect(arguments, arguments.new) as new:
        absent = [client.config.url for client in (old, new) if not client.ready(arguments.deadline)]
        for url in absent:
            print(f"veridict compare: no detector at {url}", file=sys.stderr)
        if absent:
            return 1
        asked = ask_all(names, old, new, arguments.concurrency)
        pairs = list(tqdm(asked, total=len(names), unit="image", disable=None))
    found = compare_pairs(pairs, arguments.old, arguments.new)
    for pair in found.failed:
        for url, reply in ((arguments.old, pair.old), (arguments.new, pair.new)):
            if not reply.answered:
                print(f"{pair.image}: {url}: [{reply.code}] {reply.message}", file=sys.stderr)
    problems = found.problems(arguments.most_flips, arguments.largest_difference)
    bounds = {"most_flips": arguments.most_flips, "largest_difference": arguments.largest_difference}
    if arguments.json:
        print(json.dumps({**found.document(), "bounds": bounds, "problems": problems}))
    else:
        print(found.to_text())
    for problem in problems:
        print(f"veridict compare: {problem}", file=sys.stderr)
    return 1 if problems else 0
