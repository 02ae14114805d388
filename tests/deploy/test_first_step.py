"""The first step's own queue, its tickets and its counters, without a server."""

import os
import threading
import time
from collections import Counter

import pytest

from veridict.deploy.serving.batching_executor import Intake, Job, Late
from veridict.deploy.serving.in_flight import TicketOffice, TicketReturns, tickets_file
from veridict.deploy.serving.metrics_buffer import Tally


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def office(clock):
    made = TicketOffice(4, 3, clock=clock)
    yield made
    made.close()


def returns():
    # The office of a Triton stub is a child of the server, and so is fusion; here both are this process.
    return TicketReturns(server=os.getppid())


def test_no_more_than_the_capacity_is_under_way(office):
    first, second = office.take(3, 10.0), office.take(1, 10.0)
    assert len({*first, *second}) == office.in_use == 4
    assert office.full
    assert office.take(1, 10.0) is None
    returns().give_back((os.getpid(), first[0]))
    assert office.in_use == 3
    assert not office.full
    assert office.take(1, 10.0) == [first[0]]


def test_a_request_of_several_images_is_refused_only_where_one_of_a_single_image_is(office):
    assert len(office.take(3, 10.0)) == 3
    assert len(office.take(3, 10.0)) == 3  # one was still free
    assert office.take(1, 10.0) is None


def test_a_ticket_that_is_lost_is_free_again_in_time(office, clock):
    office.take(3, 10.0)
    clock.now += 9.0
    assert office.in_use == 3
    clock.now += 1.5
    assert office.in_use == 0


def test_tickets_given_back_by_the_office_itself(office):
    office.give_back(office.take(2, 10.0))
    assert office.in_use == 0


def test_tickets_that_do_not_exist_are_passed_over(office):
    taken = office.take(2, 10.0)
    for ticket in ((os.getpid(), 99), (os.getpid(), -1), (1, 0)):
        returns().give_back(ticket)
    assert office.in_use == len(taken)


def test_closing_removes_the_file():
    office = TicketOffice(1, 1)
    assert tickets_file(os.getppid(), os.getpid()).exists()
    office.close()
    assert not office.path.exists()


def wait_until(true):
    ends = time.monotonic() + 5
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.002)


class Handed:
    """Collects what an intake hands on."""

    def __init__(self):
        self.groups, self.refused = [], []

    def __call__(self, jobs):
        self.groups.append(jobs)

    @property
    def jobs(self):
        return [job for group in self.groups for job in group]


def later():
    return time.monotonic() + 60


def test_every_job_is_handed_on_once_with_its_results_in_order():
    handed = Handed()
    intake = Intake(2, lambda item: item * 10, handed, handed.refused.append, group=4)
    for number in range(20):
        intake.put(Job(number, [number, number + 1], later()))
    intake.close()
    assert sorted(job.key for job in handed.jobs) == list(range(20))
    assert all(job.results == [job.key * 10, job.key * 10 + 10] for job in handed.jobs)
    assert all(
        a <= b <= c for job in handed.jobs for a, b, c in zip([job.arrived] * 2, job.begun, job.finished, strict=True)
    )


def test_a_lone_job_does_not_wait_for_others():
    handed = Handed()
    intake = Intake(2, lambda item: item, handed, handed.refused.append, group=8)
    intake.put(Job("only", [1], later()))
    wait_until(lambda: handed.groups)
    intake.close()


def test_finished_jobs_are_held_back_until_they_are_half_of_what_is_here_or_a_group():
    handed, gate, begun = Handed(), threading.Semaphore(0), []

    def work(item):
        begun.append(item)
        gate.acquire()
        return item

    intake = Intake(1, work, handed, handed.refused.append, group=3)
    for number in range(8):
        intake.put(Job(number, [number], later()))
    for _ in range(2):
        gate.release()
    wait_until(lambda: len(begun) == 3)  # one thread: two are finished
    assert handed.groups == []  # two of eight: less than half, less than a group
    gate.release()
    wait_until(lambda: handed.groups)
    assert [job.key for job in handed.groups[0]] == [0, 1, 2]  # a whole group
    for _ in range(5):
        gate.release()
    intake.close()
    # The last ones go one by one, or together where the first of them is still being handed on.
    assert [job.key for job in handed.groups[1]] == [3, 4, 5]
    assert [job.key for group in handed.groups[2:] for job in group] == [6, 7]


def test_what_finishes_while_all_calls_are_under_way_goes_together_afterwards():
    gate, groups, refused = threading.Semaphore(0), [], []

    def hand_on(jobs):
        groups.append([job.key for job in jobs])
        gate.acquire()

    intake = Intake(1, lambda item: item, hand_on, refused.append, group=1, calls=2)
    for number in range(6):
        intake.put(Job(number, [number], later()))
        wait_until(lambda: len(groups) == min(number + 1, 2))  # noqa: B023 - called at once
    wait_until(lambda: not intake._unfinished)
    assert groups == [[0], [1]]
    gate.release()
    wait_until(lambda: len(groups) == 3)
    assert groups[2] == [2, 3, 4, 5]
    for _ in range(2):
        gate.release()
    intake.close()


def test_a_failure_is_its_own_jobs_and_the_first_of_the_items_is_told():
    def work(item):
        if item < 0:
            raise ValueError(str(item))
        return item

    handed = Handed()
    intake = Intake(2, work, handed, handed.refused.append, group=2)
    intake.put(Job("bad", [1, -1, -2], later()))
    intake.put(Job("good", [5], later()))
    intake.close()
    (bad,) = handed.refused
    index, error = bad.error
    assert (bad.key, index, str(error)) == ("bad", 1, "-1")
    assert [job.key for job in handed.jobs] == ["good"]


def test_a_failure_waits_neither_for_a_group_nor_for_a_call():
    def hand_on(jobs):
        gate.acquire()

    gate, refused = threading.Semaphore(0), []
    intake = Intake(1, lambda item: 1 // item, hand_on, refused.append, group=1)
    for item in (1, 1, 0):
        intake.put(Job(item, [item], later()))
    wait_until(lambda: refused)
    assert refused[0].key == 0
    for _ in range(2):
        gate.release()
    intake.close()


def test_what_waited_too_long_is_not_begun():
    handed, begun = Handed(), []
    intake = Intake(1, begun.append, handed, handed.refused.append, group=1)
    intake.put(Job("late", [1], time.monotonic() - 1))
    intake.close()
    assert begun == []
    assert isinstance(handed.refused[0].error[1], Late)


class Metric:
    def __init__(self):
        self.calls, self.total, self.value = 0, 0, None

    def increment(self, number):
        self.calls += 1
        self.total += number

    def set(self, value):
        self.value = value


def test_counts_are_published_together_and_none_is_lost():
    metrics, gauge = {"a": Metric(), "b": Metric()}, Metric()
    tally = Tally(metrics, period=0.01, gauges=[(gauge, lambda: 7)])
    threads = [threading.Thread(target=lambda: [tally.count("a", "b") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.close()
    assert Counter({name: m.total for name, m in metrics.items()}) == {"a": 2000, "b": 2000}
    assert metrics["a"].calls < 2000
    assert gauge.value == 7
