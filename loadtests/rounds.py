"""Measures many things in interleaved rounds, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .bench.subjects import Subject
from .closed_loop import LEAD, Block, drive


@dataclass(frozen=True)
class Task:
    """One line to measure: a subject, a picture, a concurrency; ``once`` keeps very slow lines to the first round."""

    subject: Subject
    image: str
    data: bytes
    concurrency: int
    batch: int = 1
    once: bool = False


Results = dict[Task, list[Block]]


def measure_tasks(tasks: Sequence[Task], rounds: int, seconds: float, title: str = "") -> Results:
    """Return the blocks of every task, one per round; every other round goes through the tasks backwards.

    Only the subject that is being measured may run. One unmeasured block goes before a task's first one, and every
    block has a lead-in, so all lines are warm.
    """
    results: Results = {task: [] for task in tasks}
    subjects = {id(task.subject): task.subject for task in tasks}.values()
    for subject in subjects:
        subject.pause()
    try:
        for number in range(rounds):
            for task in tasks if number % 2 == 0 else reversed(tasks):
                if task.once and number:
                    continue
                task.subject.resume()
                try:
                    if number == 0 and not task.once:
                        _block(task, min(seconds, 0.5), 0.0)
                    results[task].append(_block(task, seconds, min(LEAD, seconds)))
                finally:
                    task.subject.pause()
            print(f"veridict bench: {title} round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for subject in subjects:
            subject.resume()
    return results


def _block(task: Task, seconds: float, lead: float) -> Block:
    connect = functools.partial(task.subject.connect, task.data, task.batch)
    return drive(connect, task.concurrency, seconds, task.subject.tree, lead)
