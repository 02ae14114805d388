"""One run of a backfill: the plan, what is stored already, the job for the rest, and the summary."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from veridict.client import ModelVersions, VeridictError
from veridict.deploy.interrupts import interrupt_once
from veridict.deploy.manifest import RepositoryError

from .chunks import Task
from .judges import JudgeSettings
from .plan import Plan, Request, open_plan
from .progress import INTERVAL, Progress, every
from .ray_job import judge_chunks
from .ray_session import Pool, ray_session
from .results import RESULTS, PartFacts, Totals, part_name, stored_facts
from .storage import BackfillError, Folder

SUMMARY = "summary.json"
#: Errors that may go away: those of the service and of the images' store.
_TRANSIENT = ("server.", "client.", "read.")
#: Files of results whose footers are read at a time.
_READERS = 16


@dataclass(frozen=True)
class Stored:
    """What an output folder holds: facts by chunk, and the number of files that are no results of this plan."""

    parts: dict[int, PartFacts]
    damaged: int


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def find_stored(folder: Folder, plan: Plan) -> Stored:
    """Read the footers of all results in the folder."""
    names = {part_name(chunk): chunk for chunk in range(plan.chunks)}
    found = [name for name in (f"{RESULTS}/{name}" for name in folder.names(RESULTS)) if name in names]
    with ThreadPoolExecutor(_READERS) as pool:
        facts = list(pool.map(lambda name: stored_facts(folder, plan, names[name]), found))
    parts = {names[name]: each for name, each in zip(found, facts, strict=True) if each is not None}
    return Stored(parts, len(found) - len(parts))


def pending_tasks(plan: Plan, stored: Stored, retry_errors: bool) -> list[Task]:
    """Return the chunks to judge: those that are not stored, and with ``retry_errors`` those with transient errors."""
    tasks = []
    for chunk in range(plan.chunks):
        facts = stored.parts.get(chunk)
        if facts is None:
            tasks.append(Task(chunk))
        elif retry_errors and any(code.startswith(_TRANSIENT) for code in facts.errors):
            tasks.append(Task(chunk, again=True))
    return tasks


def _current_models(settings: JudgeSettings) -> ModelVersions:
    try:
        return settings.models()
    except (VeridictError, RepositoryError) as error:
        raise BackfillError(f"cannot judge: {error}") from error


@contextmanager
def _session(pool: Pool) -> Iterator[None]:
    """Run Ray; Ctrl-C and SIGTERM end it in order (Ray sets handlers of its own when it starts)."""
    with ray_session(pool), interrupt_once():
        yield


def run_backfill(
    output: str,
    request: Request,
    settings: JudgeSettings,
    pool: Pool,
    retry_errors: bool = False,
    say: Callable[[str], None] = _say,
) -> dict[str, Any]:
    """Judge what is not yet stored in ``output``; return the summary of everything that is stored then.

    Raises:
        BackfillError: the run cannot start or go on; what is stored stays, and the same call goes on from there.
    """
    folder = Folder(output)
    plan, resumed = open_plan(folder, request, _current_models(settings))
    folder.remove_partial(RESULTS)
    stored = find_stored(folder, plan)
    tasks = pending_tasks(plan, stored, retry_errors)
    waiting = {task.chunk for task in tasks}
    progress = Progress(plan, Totals.of(facts for chunk, facts in stored.parts.items() if chunk not in waiting))
    say(f"backfill: plan {plan.id}, {plan.images:,} images in {plan.chunks:,} chunks, {len(tasks):,} to judge")
    if resumed and stored.damaged:
        say(f"backfill: {stored.damaged} damaged files of results are judged again")
    if tasks:
        with _session(pool):
            progress.begin()
            with every(INTERVAL, lambda: say(progress.line())):
                for facts in judge_chunks(output, plan, tasks, settings, pool):
                    progress.add(facts)
        folder.remove_partial(RESULTS)
        progress.totals = Totals.of(find_stored(folder, plan).parts.values())  # what counts is what is stored
    say(progress.line())
    summary = progress.summary()
    folder.write(SUMMARY, json.dumps(summary, indent=1).encode())
    return summary
