"""``veridict jobs``: shows the state of a job and the dead-letter stream, and queues dead jobs again."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime

from ..errors import ExplainError
from .cli_worker import add_queue_arguments, queue_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="print a job's state as JSON")
    status.add_argument("job", help="job id")
    actions.add_parser("queue", help="print how many jobs are waiting, running and dead")
    actions.add_parser("dead", help="list the dead-letter stream")
    requeue = actions.add_parser("requeue", help="queue dead jobs again")
    requeue.add_argument("jobs", nargs="*", help="job ids, or entry ids from veridict jobs dead")
    requeue.add_argument("--all", action="store_true", help="queue every dead job again")
    for action in (status, requeue, *(actions.choices[name] for name in ("queue", "dead"))):
        add_queue_arguments(action)


def run(arguments: argparse.Namespace) -> int:
    """Return 0, or 1 when the queue cannot be reached or there is no such job."""
    try:
        return _run(arguments)
    except ImportError as error:
        print(f"veridict jobs: {error}; pip install 'veridict[queue]'", file=sys.stderr)
    except ExplainError as error:
        print(f"veridict jobs: {error}", file=sys.stderr)
    return 1


def _run(arguments: argparse.Namespace) -> int:
    from .client import ExplanationClient
    from .queue import redis_errors

    with ExplanationClient(queue_settings(arguments)) as client:
        if arguments.action == "status":
            print(json.dumps(client.status(arguments.job).document()))
            return 0
        letters = client.queue.dead_letters()
        if arguments.action == "queue":
            with redis_errors():
                for priority, stream in client.queue.streams.items():
                    stream.create()
                    waiting, running = stream.waiting()
                    print(f"{priority:<6} {waiting} waiting, {running} running")
            print(f"dead   {len(letters)}")
            return 0
        if arguments.action == "dead":
            for letter in letters:
                when = datetime.fromtimestamp(letter.time, UTC).isoformat(timespec="seconds")
                print(f"{letter.entry}  {when}  {letter.deliveries}x  {letter.code}  {letter.job}  {letter.message}")
            return 0
        return _requeue(arguments, client)


def _requeue(arguments: argparse.Namespace, client: object) -> int:
    from .client import ExplanationClient

    assert isinstance(client, ExplanationClient)
    if bool(arguments.jobs) == arguments.all:
        print("veridict jobs requeue: give job ids or --all", file=sys.stderr)
        return 2
    letters = client.queue.dead_letters()
    chosen = [x for x in letters if arguments.all or x.entry in arguments.jobs or x.job in arguments.jobs]
    known = {x.entry for x in chosen} | {x.job for x in chosen}
    for name in arguments.jobs:
        if name not in known:
            print(f"veridict jobs requeue: {name} is not in the dead-letter stream", file=sys.stderr)
    done = sum(client.queue.requeue(letter) for letter in chosen)
    print(f"{done} queued again")
    return 1 if any(name not in known for name in arguments.jobs) else 0
