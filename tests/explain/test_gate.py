"""The gate without time: a clock that only waits and work move, and counts that the test gives."""

import argparse
import socket

import pytest

from veridict.explain.attribution import Cancellation
from veridict.explain.errors import ExplainError
from veridict.explain.jobs import cli_worker
from veridict.explain.jobs.gate import CALM, LOOK, SLICE, UNANSWERED, Gate, Pace, VerdictCounter


class World:
    """A clock, a server that counts, and the signal a wait listens to; waiting lets time pass and the gate look."""

    def __init__(self, share=0.1):
        self.now, self.count, self.per_look, self.cancel_at = 100.0, 0, 0, float("inf")
        self.noted = []
        self.gate = Gate(Pace(share), self.ask, note=self.noted.append, clock=lambda: self.now)

    def ask(self):
        if self.count is None:
            raise ConnectionError("nobody there")
        self.count += self.per_look
        return self.count

    def is_set(self):
        return self.now >= self.cancel_at

    def wait(self, timeout):
        self.now += timeout
        self.gate.look()

    def flow(self):
        """Let verdicts be given from now on."""
        self.gate.look()
        self.per_look = 3
        self.now += LOOK
        self.gate.look()

    def work(self, seconds, unit=1 / 32):
        """Compute in units for so many seconds, looking at the server meanwhile; return the seconds waited."""
        waited = 0.0
        for _ in range(round(seconds / unit)):
            self.now += unit
            self.gate.look()
            waited += self.gate.wait(self)
        return waited


def test_nothing_waits_while_no_verdict_is_given():
    world = World()
    world.count = 5_000  # given before anybody looked
    assert world.work(10.0) == 0
    assert world.noted == []


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_beside_verdicts_work_takes_its_share_of_the_time(share):
    world = World(share)
    world.flow()
    world.gate.begin()
    waited = world.work(5.0)
    assert 5.0 / (5.0 + waited) == pytest.approx(share)
    assert len(world.noted) == 5.0 / 0.125  # four units fill a slice; no long pauses, so nothing starves
    assert sum(world.noted) == pytest.approx(waited)


def test_the_gate_opens_when_the_verdicts_cease():
    world = World()
    world.flow()
    world.gate.begin()
    world.now += 2 * SLICE
    world.per_look = 0
    assert CALM - 2 * SLICE - LOOK <= world.gate.wait(world) <= CALM + LOOK < 0.9  # less than a slice asks for
    assert world.work(10.0) == 0
    world.per_look = 1  # and it closes again
    assert world.work(1.0) > 0


def test_a_long_stretch_counts_as_one_slice():
    world = World()
    world.flow()
    world.gate.begin()
    world.now += 60.0
    world.gate.look()
    assert world.gate.wait(world) == pytest.approx(9 * SLICE)


def test_time_between_two_jobs_is_no_work():
    world = World()
    world.flow()
    world.now += 60.0
    world.gate.look()
    world.gate.begin()
    assert world.gate.wait(world) == 0


def test_a_server_that_never_answered_holds_nobody_up():
    world = World()
    world.count = None
    assert world.work(5.0) == 0


def test_a_server_that_is_lost_opens_the_gate_after_a_while(caplog):
    world = World()
    world.flow()
    world.gate.begin()
    world.count = None
    assert 0 < world.work(0.4) < UNANSWERED  # one late answer means that it is busy
    world.now += UNANSWERED
    assert world.work(5.0) == 0
    assert len(caplog.records) == 1
    assert "nobody there" in caplog.text
    world.count = 0  # back, and counting anew
    world.gate.look()
    assert world.work(5.0) > 0


def test_a_restarted_server_that_counts_anew_gave_no_verdict():
    pace = Pace(0.1)
    pace.look(500, 0.0)
    pace.look(2, 1.0)
    assert not pace.closed
    pace.look(3, 1.1)
    assert pace.closed


def test_who_is_cancelled_waits_no_longer():
    world = World(0.01)
    world.flow()
    world.gate.begin()
    world.now += 2 * SLICE
    world.cancel_at = world.now + 0.25
    assert world.gate.wait(world) < 0.25 + LOOK


def test_a_stopping_worker_finishes_without_waiting():
    world = World()
    world.flow()
    world.gate.begin()
    world.gate.stop()
    assert world.work(5.0) == 0


def test_cancelling_ends_a_real_wait_with_the_code():
    world = World(0.01)
    world.flow()
    cancellation = Cancellation(60.0, world.gate)
    world.now += 2 * SLICE
    cancellation.cancel()
    with pytest.raises(ExplainError, match=r"explain\.cancelled"):
        cancellation.check()


class Slow:
    """A gate that lets everybody wait for ``seconds`` by another clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def wait(self, event):
        self.clock.now += self.seconds
        return self.seconds


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def test_waiting_is_not_charged_to_the_budget(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("veridict.explain.attribution.time", clock)
    cancellation = Cancellation(1.0, Slow(clock, 30.0))
    clock.now += 0.6
    cancellation.check()
    cancellation.check()
    assert cancellation.waited == 60.0
    clock.now += 0.6  # working is
    with pytest.raises(ExplainError, match=r"explain\.over_budget"):
        cancellation.check()
    assert cancellation.waited == 60.0


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_shares_out_of_range_are_refused(share, capsys):
    with pytest.raises(ExplainError, match="share"):
        Pace(share)
    parser = argparse.ArgumentParser()
    cli_worker.add_arguments(parser)
    assert cli_worker.run(parser.parse_args(["--share", str(share)])) == 2
    assert "--share must be 0.01..1" in capsys.readouterr().err


def test_an_unreachable_server_is_a_connection_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=url):
            VerdictCounter(url)()
