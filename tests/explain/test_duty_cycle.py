"""The duty-cycle limiter without real time: the test moves the clock and gives the counts of the server."""

import argparse
import socket

import pytest

from veridict.client import ClientConfig
from veridict.explain.attribution import Cancellation
from veridict.explain.errors import ExplainError
from veridict.explain.jobs import cli_worker
from veridict.explain.jobs.duty_cycle import (
    IDLE_AFTER,
    POLL_INTERVAL,
    UNREACHABLE_AFTER,
    WORK_SLICE,
    DutyCycle,
    DutyCycleLimiter,
    VerdictCounter,
)


class World:
    """A clock, a server that counts, and what ends a pause; a pause moves the clock and polls the server."""

    def __init__(self, share=0.1):
        self.now, self.count, self.per_poll, self.cancel_at = 100.0, 0, 0, float("inf")
        self.pauses = []
        self.limiter = DutyCycleLimiter(DutyCycle(share), self.ask, on_pause=self.pauses.append, clock=lambda: self.now)

    def ask(self):
        if self.count is None:
            raise ConnectionError("nobody there")
        self.count += self.per_poll
        return self.count

    def is_set(self):
        return self.now >= self.cancel_at

    def wait(self, timeout):
        self.now += timeout
        self.limiter.poll()

    def give_verdicts(self):
        """Let the server give verdicts from now on."""
        self.limiter.poll()
        self.per_poll = 3
        self.now += POLL_INTERVAL
        self.limiter.poll()

    def work(self, seconds, unit=1 / 32):
        """Compute in units for so many seconds and poll the server in between; return the seconds paused."""
        paused = 0.0
        for _ in range(round(seconds / unit)):
            self.now += unit
            self.limiter.poll()
            paused += self.limiter.pause(self)
        return paused


def test_work_never_pauses_while_no_verdict_is_given():
    world = World()
    world.count = 5_000  # given before the first poll
    assert world.work(10.0) == 0
    assert world.pauses == []


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_while_verdicts_are_given_work_takes_its_share_of_the_time(share):
    world = World(share)
    world.give_verdicts()
    world.limiter.begin()
    paused = world.work(5.0)
    assert 5.0 / (5.0 + paused) == pytest.approx(share)
    assert len(world.pauses) == 5.0 / 0.125  # four units fill a slice: many short pauses
    assert sum(world.pauses) == pytest.approx(paused)


def test_pauses_end_when_the_verdicts_end():
    world = World()
    world.give_verdicts()
    world.limiter.begin()
    world.now += 2 * WORK_SLICE
    world.per_poll = 0
    assert (
        IDLE_AFTER - 2 * WORK_SLICE - POLL_INTERVAL <= world.limiter.pause(world) <= IDLE_AFTER + POLL_INTERVAL < 0.9
    )  # less than the pause after a slice
    assert world.work(10.0) == 0
    world.per_poll = 1  # verdicts again
    assert world.work(1.0) > 0


def test_a_long_stretch_counts_as_one_slice():
    world = World()
    world.give_verdicts()
    world.limiter.begin()
    world.now += 60.0
    world.limiter.poll()
    assert world.limiter.pause(world) == pytest.approx(9 * WORK_SLICE)


def test_time_between_two_jobs_does_not_count_as_work():
    world = World()
    world.give_verdicts()
    world.now += 60.0
    world.limiter.poll()
    world.limiter.begin()
    assert world.limiter.pause(world) == 0


def test_a_server_that_never_answered_causes_no_pause():
    world = World()
    world.count = None
    assert world.work(5.0) == 0


def test_pauses_end_some_time_after_the_server_is_lost(caplog):
    world = World()
    world.give_verdicts()
    world.limiter.begin()
    world.count = None
    assert 0 < world.work(0.4) < UNREACHABLE_AFTER  # one late answer means that it is busy
    world.now += UNREACHABLE_AFTER
    assert world.work(5.0) == 0
    assert len(caplog.records) == 1
    assert "nobody there" in caplog.text
    world.count = 0  # back, and counting anew
    world.limiter.poll()
    assert world.work(5.0) > 0


def test_a_restarted_server_that_counts_anew_gave_no_verdict():
    duty_cycle = DutyCycle(0.1)
    duty_cycle.observe(500, 0.0)
    duty_cycle.observe(2, 1.0)
    assert not duty_cycle.limiting
    duty_cycle.observe(3, 1.1)
    assert duty_cycle.limiting


def test_cancelling_ends_a_pause():
    world = World(0.01)
    world.give_verdicts()
    world.limiter.begin()
    world.now += 2 * WORK_SLICE
    world.cancel_at = world.now + 0.25
    assert world.limiter.pause(world) < 0.25 + POLL_INTERVAL


def test_a_stopping_worker_finishes_without_pauses():
    world = World()
    world.give_verdicts()
    world.limiter.begin()
    world.limiter.stop()
    assert world.work(5.0) == 0


def test_a_cancelled_method_stops_with_the_code():
    world = World(0.01)
    world.give_verdicts()
    cancellation = Cancellation(60.0, world.limiter)
    world.now += 2 * WORK_SLICE
    cancellation.cancel()
    with pytest.raises(ExplainError, match=r"explain\.cancelled"):
        cancellation.check()


class FixedPause:
    """A limiter that always pauses for ``seconds`` of another clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def pause(self, cancelled):
        self.clock.now += self.seconds
        return self.seconds


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def test_pauses_do_not_count_as_the_methods_seconds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("veridict.explain.attribution.time", clock)
    cancellation = Cancellation(1.0, FixedPause(clock, 30.0))
    clock.now += 0.6
    cancellation.check()
    cancellation.check()
    assert cancellation.waited == 60.0
    clock.now += 0.6  # work does count
    with pytest.raises(ExplainError, match=r"explain\.over_budget"):
        cancellation.check()
    assert cancellation.waited == 60.0


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(share, capsys):
    with pytest.raises(ExplainError, match="share"):
        DutyCycle(share)
    parser = argparse.ArgumentParser()
    cli_worker.add_arguments(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([f"--share={share}"])
    assert "0.01 to 1" in capsys.readouterr().err


def test_an_unreachable_server_is_a_connection_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=url):
            VerdictCounter(ClientConfig(url))()
