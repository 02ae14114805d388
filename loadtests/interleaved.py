"""Measures many cases in interleaved rounds, so that a slow minute of the machine affects all of them alike."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .bench.pipelines import Pipeline
from .closed_loop import WARM_UP, Block, run_closed_loop


@dataclass(frozen=True)
class Case:
    """One line to measure: a pipeline, an image (its name and its bytes), a concurrency and the images per request.

    ``first_round_only`` measures a very slow case once.
    """

    pipeline: Pipeline
    image: str
    data: bytes
    concurrency: int
    batch: int = 1
    first_round_only: bool = False


Results = dict[Case, list[Block]]


def measure_interleaved(cases: Sequence[Case], rounds: int, seconds: float, title: str = "") -> Results:
    """Return the blocks of every case, one per round; every second round takes the cases in reverse order.

    Only the pipeline under measurement may run. An unmeasured block precedes the first block of a case, and every block
    has a warm-up.
    """
    results: Results = {case: [] for case in cases}
    pipelines = {id(case.pipeline): case.pipeline for case in cases}.values()
    for pipeline in pipelines:
        pipeline.pause()
    try:
        for number in range(rounds):
            for case in cases if number % 2 == 0 else reversed(cases):
                if case.first_round_only and number:
                    continue
                case.pipeline.resume()
                try:
                    if number == 0 and not case.first_round_only:
                        _measure_block(case, min(seconds, 0.5), 0.0)
                    results[case].append(_measure_block(case, seconds, min(WARM_UP, seconds)))
                finally:
                    case.pipeline.pause()
            print(f"veridict bench: {title} round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for pipeline in pipelines:
            pipeline.resume()
    return results


def _measure_block(case: Case, seconds: float, warm_up: float) -> Block:
    connect = functools.partial(case.pipeline.connect, case.data, case.batch)
    return run_closed_loop(connect, case.concurrency, seconds, case.pipeline.tree, warm_up)
