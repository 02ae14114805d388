"""The batching executor, the in-flight limiter and the metrics buffer of the first step, without a server."""

import gc
import os
import threading
import time
import weakref

import pytest

from veridict.deploy.serving.batching_executor import BatchingExecutor, DeadlineExceeded, PendingRequest
from veridict.deploy.serving.in_flight import InFlightLimiter, SlotReturns, slots_file
from veridict.deploy.serving.metrics_buffer import MetricsBuffer


@pytest.fixture
def limiter(clock):
    made = InFlightLimiter(4, 3, clock=clock)
    yield made
    made.close()


def returns():
    # In a server the limiter's process and fusion are both children of the server; here both are this process.
    return SlotReturns(server=os.getppid())


def test_no_more_images_than_the_limit_are_in_flight(limiter):
    first, second = limiter.acquire(3, 10.0), limiter.acquire(1, 10.0)
    assert len({*first, *second}) == limiter.in_use == 4
    assert limiter.full
    assert limiter.acquire(1, 10.0) is None
    returns().release((os.getpid(), first[0]))
    assert limiter.in_use == 3
    assert not limiter.full
    assert limiter.acquire(1, 10.0) == [first[0]]


def test_a_request_of_several_images_is_refused_only_where_one_of_a_single_image_is(limiter):
    assert len(limiter.acquire(3, 10.0)) == 3
    assert len(limiter.acquire(3, 10.0)) == 3  # one was still free
    assert limiter.acquire(1, 10.0) is None


def test_a_lost_slot_is_free_again_after_its_lifetime(limiter, clock):
    limiter.acquire(3, 10.0)
    clock.now += 9.0
    assert limiter.in_use == 3
    clock.now += 1.5
    assert limiter.in_use == 0


def test_the_limiter_releases_slots_itself(limiter):
    limiter.release(limiter.acquire(2, 10.0))
    assert limiter.in_use == 0


def test_unknown_slots_are_ignored(limiter):
    taken = limiter.acquire(2, 10.0)
    for slot in ((os.getpid(), 99), (os.getpid(), -1), (1, 0)):
        returns().release(slot)
    assert limiter.in_use == len(taken)


def test_closing_removes_the_file():
    limiter = InFlightLimiter(1, 1)
    assert slots_file(os.getppid(), os.getpid()).exists()
    limiter.close()
    assert not limiter.path.exists()


def wait_until(true):
    ends = time.monotonic() + 5
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.002)


class Processed:
    """Collects what an executor passes on."""

    def __init__(self):
        self.batches, self.failed = [], []

    def __call__(self, jobs):
        self.batches.append(jobs)

    @property
    def jobs(self):
        return [job for group in self.batches for job in group]


def later():
    return time.monotonic() + 60


def test_every_request_is_processed_once_with_its_results_in_order():
    processed = Processed()
    executor = BatchingExecutor(2, lambda item: item * 10, processed, processed.failed.append, batch_items=4)
    for number in range(20):
        executor.submit(PendingRequest(number, [number, number + 1], later()))
    executor.close()
    assert sorted(job.key for job in processed.jobs) == list(range(20))
    assert all(job.results == [job.key * 10, job.key * 10 + 10] for job in processed.jobs)
    assert all(
        a <= b <= c
        for job in processed.jobs
        for a, b, c in zip([job.arrived] * 2, job.begun, job.finished, strict=True)
    )


def test_a_lone_request_does_not_wait_for_others():
    processed = Processed()
    executor = BatchingExecutor(2, lambda item: item, processed, processed.failed.append, batch_items=8)
    executor.submit(PendingRequest("only", [1], later()))
    wait_until(lambda: processed.batches)
    executor.close()


def test_finished_requests_are_held_back_until_they_are_a_batch_or_half_of_all():
    processed, gate, begun = Processed(), threading.Semaphore(0), []

    def work(item):
        begun.append(item)
        gate.acquire()
        return item

    executor = BatchingExecutor(1, work, processed, processed.failed.append, batch_items=3)
    for number in range(8):
        executor.submit(PendingRequest(number, [number], later()))
    for _ in range(2):
        gate.release()
    wait_until(lambda: len(begun) == 3)  # one thread: two are finished
    assert processed.batches == []  # two of eight: less than half, less than a batch
    gate.release()
    wait_until(lambda: processed.batches)
    assert [job.key for job in processed.batches[0]] == [0, 1, 2]  # a whole batch
    for _ in range(5):
        gate.release()
    executor.close()
    # The last ones go one by one, or together where the first of them is still being processed.
    assert [job.key for job in processed.batches[1]] == [3, 4, 5]
    assert [job.key for group in processed.batches[2:] for job in group] == [6, 7]


def test_requests_that_finish_while_all_batches_run_form_the_next_batch():
    gate, batches, failed, done = threading.Semaphore(0), [], [], []

    def process(jobs):
        batches.append([job.key for job in jobs])
        gate.acquire()

    executor = BatchingExecutor(1, done.append, process, failed.append, batch_items=1, concurrent=2)
    for number in range(6):
        executor.submit(PendingRequest(number, [number], later()))
        wait_until(lambda: len(batches) == min(number + 1, 2))  # noqa: B023 - called at once
    wait_until(lambda: len(done) == 6)
    assert batches == [[0], [1]]
    gate.release()
    wait_until(lambda: len(batches) == 3)
    assert batches[2] == [2, 3, 4, 5]
    for _ in range(2):
        gate.release()
    executor.close()


def test_a_failed_request_is_freed_at_once():
    """Its image may have 20 MB; a cycle through the stored error would keep it until the next garbage collection."""

    def work(item):
        raise ValueError(str(item))

    executor = BatchingExecutor(1, work, lambda jobs: None, lambda job: None, batch_items=1)
    gc.disable()
    try:
        request = PendingRequest("bad", [1], later())
        freed = weakref.ref(request)
        executor.submit(request)
        del request
        wait_until(lambda: freed() is None)
    finally:
        gc.enable()
        executor.close()


def test_a_failure_is_its_own_requests_and_names_the_first_item():
    def work(item):
        if item < 0:
            raise ValueError(str(item))
        return item

    processed = Processed()
    executor = BatchingExecutor(2, work, processed, processed.failed.append, batch_items=2)
    executor.submit(PendingRequest("bad", [1, -1, -2], later()))
    executor.submit(PendingRequest("good", [5], later()))
    executor.close()
    (bad,) = processed.failed
    index, error = bad.error
    assert (bad.key, index, str(error)) == ("bad", 1, "-1")
    assert [job.key for job in processed.jobs] == ["good"]


def test_a_failure_does_not_wait_for_a_batch():
    def process(jobs):
        gate.acquire()

    gate, refused = threading.Semaphore(0), []
    executor = BatchingExecutor(1, lambda item: 1 // item, process, refused.append, batch_items=1)
    for item in (1, 1, 0):
        executor.submit(PendingRequest(item, [item], later()))
    wait_until(lambda: refused)
    assert refused[0].key == 0
    for _ in range(2):
        gate.release()
    executor.close()


def test_a_request_past_its_deadline_is_not_begun():
    processed, begun = Processed(), []
    executor = BatchingExecutor(1, begun.append, processed, processed.failed.append, batch_items=1)
    executor.submit(PendingRequest("late", [1], time.monotonic() - 1))
    executor.close()
    assert begun == []
    assert isinstance(processed.failed[0].error[1], DeadlineExceeded)


def test_a_request_whose_deadline_passes_before_its_batch_is_not_processed():
    def process(requests):
        processed.append([request.key for request in requests])
        gate.acquire()

    gate, processed, failed = threading.Semaphore(0), [], []
    executor = BatchingExecutor(1, str, process, failed.append, batch_items=1)
    executor.submit(PendingRequest("first", [1], later()))
    wait_until(lambda: processed)
    ends = time.monotonic() + 0.2
    executor.submit(PendingRequest("late", [2], ends))
    executor.submit(PendingRequest("in time", [3], later()))
    wait_until(lambda: time.monotonic() > ends)
    gate.release(2)
    executor.close()
    assert processed == [["first"], ["in time"]]
    assert [(request.key, type(request.error[1])) for request in failed] == [("late", DeadlineExceeded)]


def test_counts_are_published_together_and_none_is_lost(backend):
    buffer = MetricsBuffer(backend, period=0.01)
    buffer.counters("images_total", "Images", {"a": {"result": "first"}, "b": {"result": "second"}})
    buffer.gauge("level", "Level", lambda: 7, {})
    threads = [threading.Thread(target=lambda: [buffer.count("a", "b") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.close()
    first = backend.series["veridict_images_total", "first"]
    assert first.value == backend.series["veridict_images_total", "second"].value == 2000
    assert first.calls < 2000
    assert backend.series["veridict_level",].value == 7


def test_a_gauge_is_set_when_its_value_changes(backend):
    level = [3]
    buffer = MetricsBuffer(backend, period=60.0)
    buffer.gauge("level", "Level", lambda: level[0], {})
    metric = backend.series["veridict_level",]
    metric.value = None  # what is not set again stays so
    buffer.publish()
    assert metric.value is None
    level[0] = 4
    buffer.publish()
    assert metric.value == 4
    buffer.close()
