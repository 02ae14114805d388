"""The slow lane of the first step, and the limits that its configuration sets, without a server."""

import threading
import time

import pytest

from veridict.deploy.serving.batching_executor import BatchingExecutor, PendingRequest, Postponed, SlowLane
from veridict.deploy.serving.parameters import parse_number


class Processed:
    """Collects what an executor passes on."""

    def __init__(self):
        self.jobs, self.failed = [], []

    def __call__(self, jobs):
        self.jobs += jobs


def later():
    return time.monotonic() + 60


def slow_lane(work):
    return SlowLane(1, work, lambda item: item == "slow")


def test_nothing_waits_behind_slow_items():
    processed, gate = Processed(), threading.Semaphore(0)

    def work_slowly(item):
        gate.acquire()
        return item

    executor = BatchingExecutor(
        1, str.upper, processed, processed.failed.append, batch_items=8, slow=slow_lane(work_slowly)
    )
    for _ in range(3):
        executor.submit(PendingRequest("slow", ["slow"], later()))
    ends = later()
    executor.submit(PendingRequest("quick", ["quick"], ends))
    while not processed.jobs:  # not held back for a batch with the slow ones
        assert time.monotonic() < ends
        time.sleep(0.002)
    assert [(job.key, job.results) for job in processed.jobs] == [("quick", ["QUICK"])]
    assert executor.slow_items == 3
    gate.release(3)
    executor.close()
    assert [job.results for job in processed.jobs[1:]] == [["slow"]] * 3
    assert executor.slow_items == 0


def test_an_item_that_turns_out_to_be_slow_moves_to_the_slow_lane():
    def work(item):
        if item == "heavy":
            raise Postponed
        return item

    processed = Processed()
    executor = BatchingExecutor(
        1, work, processed, processed.failed.append, batch_items=8, slow=slow_lane(lambda item: item * 2)
    )
    executor.submit(PendingRequest("both", ["light", "heavy", "slow"], later()))
    executor.close()
    assert [job.results for job in processed.jobs] == [["light", "heavyheavy", "slowslow"]]
    assert (executor.slow_items, processed.failed) == (0, [])


def test_a_parameter_out_of_range_is_named_with_its_range():
    assert parse_number("decode_seconds", "2.5", 0.1, 600) == 2.5
    for text in ("", "soon", "0", "601", "nan", "inf", "-1"):
        with pytest.raises(ValueError, match=f"decode_seconds is '{text}', and must be a number from 0.1 to 600"):
            parse_number("decode_seconds", text, 0.1, 600)
