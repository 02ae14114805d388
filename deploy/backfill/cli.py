"""``veridict backfill``: judges an archive of images again and stores one result per image as Parquet."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from veridict.client.connection import add_connection_arguments, add_policy_argument, connection_or_exit
from veridict.deploy import option_types
from veridict.deploy.manifest import default_repository
from veridict.deploy.serving.processor import usable_cores
from veridict.deploy.structured_log import hide_credentials

from .judges import JudgeSettings
from .plan import CHUNK, Request
from .ray_session import Pool
from .run import run_backfill
from .storage import BackfillError

#: Actors that ask a service: when one dies, another goes on.
_WORKERS = 2
#: Seconds for one image, over all attempts of the client.
_DEADLINE = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    what = parser.add_argument_group("what is judged")
    what.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATH_OR_URL",
        help="a folder or prefix of images, an image, or a Parquet file that lists images; a local path or a URL such "
        "as s3://bucket/prefix; may be given several times",
    )
    what.add_argument("--column", default="path", help="column of a Parquet list (default: %(default)s)")
    what.add_argument("--limit", type=option_types.whole(1), help="judge only the first images, sorted by name")
    what.add_argument(
        "--output",
        required=True,
        metavar="PATH_OR_URL",
        help="folder of the plan and the results; a run on the same folder goes on where the last one ended",
    )
    what.add_argument(
        "--chunk",
        type=option_types.whole(1, 1_000_000),
        help=f"images per file of results (default: that of the plan, {CHUNK} for a new one)",
    )
    what.add_argument(
        "--retry-errors",
        action="store_true",
        help="judge chunks again in which the service or the images' store failed (error codes server.*, client.* and "
        "read.*)",
    )
    who = parser.add_argument_group("who judges")
    add_connection_arguments(parser)
    add_policy_argument(parser)
    who.add_argument("--in-process", action="store_true", help="run the CPU profile's networks here; no service")
    who.add_argument(
        "--repository", type=Path, default=default_repository(), help="with --in-process: the model repository"
    )
    who.add_argument(
        "--threads", type=option_types.whole(1, 1024), help="with --in-process: threads of a worker (default: 4)"
    )
    who.add_argument(
        "--in-flight",
        type=option_types.whole(1, 100_000),
        default=16,
        help="requests at a time of all workers together (default: %(default)s)",
    )
    who.add_argument(
        "--deadline",
        type=option_types.seconds,
        default=_DEADLINE,
        help="seconds for one image, retries included, before the worker waits and asks again (default: %(default)g)",
    )
    who.add_argument(
        "--patience",
        type=option_types.seconds,
        default=JudgeSettings.patience,
        help="seconds for which a service or a store that does not answer is waited for (default: %(default)g)",
    )
    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--workers",
        type=option_types.whole(1, 10_000),
        help=f"Ray actors (default: {_WORKERS}; with --in-process as many as the cores allow)",
    )
    where.add_argument(
        "--ray-address", default="", help="a Ray cluster, such as auto (default: start Ray on this machine)"
    )


def _absolute(url: str) -> str:
    """Return a path that means the same in every worker, and after a resume in another folder."""
    return url if "://" in url else os.path.abspath(url)


def read_settings(arguments: argparse.Namespace) -> tuple[JudgeSettings, Pool]:
    """Return who judges and where; exit with status 2 on options that do not fit together."""
    if arguments.in_process:
        if arguments.policy:
            print("veridict backfill: --policy names a policy of a service, not of --in-process", file=sys.stderr)
            raise SystemExit(2)
        threads = arguments.threads or min(4, usable_cores())
        workers = arguments.workers or max(1, usable_cores() // threads)
        judge = JudgeSettings(None, arguments.repository, threads, patience=arguments.patience)
        return judge, Pool(workers, threads, arguments.ray_address)
    if arguments.threads:
        print("veridict backfill: --threads is for --in-process", file=sys.stderr)
        raise SystemExit(2)
    workers = min(arguments.workers or _WORKERS, arguments.in_flight)
    client = connection_or_exit(arguments, deadline=arguments.deadline, policy=arguments.policy)
    in_flight = -(-arguments.in_flight // workers)
    judge = JudgeSettings(client, in_flight=in_flight, patience=arguments.patience)
    return judge, Pool(workers, address=arguments.ray_address)


def run(arguments: argparse.Namespace) -> int:
    """Run; return 0 when every image has a result (a verdict or its error), 1 when not."""
    settings, pool = read_settings(arguments)
    request = Request(tuple(map(_absolute, arguments.input)), arguments.column, arguments.limit, arguments.chunk)
    try:
        summary = run_backfill(_absolute(arguments.output), request, settings, pool, arguments.retry_errors)
    except BackfillError as error:
        print(f"veridict backfill: {hide_credentials(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("veridict backfill: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(summary, indent=1))
    return 0 if summary["complete"] else 1
