"""Which replica gets a request: rotation, ejection and return, retries elsewhere, hedging; a clock that is moved."""

from collections import Counter

import pytest

from veridict.client import (
    ClientConfig,
    DeadlineError,
    InternalError,
    InvalidImageError,
    OverloadedError,
    ProtocolError,
    UnavailableError,
)
from veridict.client.addresses import Endpoint
from veridict.client.balancer import Balancer


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Replicas:
    """A balancer over named replicas, and how requests to them end."""

    def __init__(self, *names, **settings):
        self.clock = Clock()
        self.balancer = Balancer(ClientConfig(**settings), lambda endpoint: endpoint.address, self.clock, lambda: 0.0)
        self.set(*names)

    def set(self, *names):
        self.balancer.update([Endpoint(name) for name in names])

    def send(self, error=None, tried=(), took=0.0):
        """Send one request; ``error`` is how it ends, or a function of the replica's name."""
        replica = self.balancer.pick(dict(tried))
        name = replica.endpoint.address
        call = self.balancer.begin(replica, 10.0, "id")
        self.clock.now += took
        self.balancer.end(call, error(name) if callable(error) else error)
        return name

    def send_all(self, count, error=None):
        return Counter(self.send(error) for _ in range(count))

    def state(self, name):
        return next(state for state in self.balancer.states() if state.address == name)

    def replica(self, name):
        while True:
            replica = self.balancer.pick({})
            if replica.endpoint.address == name:
                return replica

    def check(self, ready):
        due = self.balancer.due()
        for replica in due:
            self.balancer.checked(replica, ready)
        return [replica.endpoint.address for replica in due]


def gone(name):
    return UnavailableError("gone") if name == "a" else None


def test_requests_go_round():
    replicas = Replicas("a", "b", "c")
    assert "".join(replicas.send() for _ in range(7)) == "abcabca"


def test_the_first_request_goes_to_a_random_replica():
    balancer = Balancer(ClientConfig(), lambda endpoint: None, draw=lambda: 0.7)
    balancer.update([Endpoint(name) for name in "abc"])
    assert balancer.pick({}).endpoint.address == "c"


def test_no_address_is_an_error_that_is_retried():
    with pytest.raises(UnavailableError, match="DNS"):
        Replicas().send()


def test_a_replica_that_fails_three_times_in_a_row_is_ejected():
    replicas = Replicas("a", "b")
    replicas.send_all(4, gone)
    assert not replicas.state("a").ejected
    replicas.send_all(2, gone)
    assert replicas.state("a").ejected
    assert replicas.state("a").ejected_for == 1.0
    assert replicas.send_all(10, gone) == {"b": 10}


@pytest.mark.parametrize("error", [InternalError("x"), ProtocolError("?")])
def test_other_failures_of_the_server_count(error):
    replicas = Replicas("a", "b", eject_after=2)
    replicas.send_all(4, lambda name: error if name == "a" else None)
    assert replicas.state("a").ejected


@pytest.mark.parametrize("error", [InvalidImageError("bad"), OverloadedError("full"), DeadlineError("late")])
def test_answers_of_a_live_server_do_not_count(error):
    replicas = Replicas("a", "b", eject_after=1, throttle=0)
    replicas.send_all(20, error)
    assert not any(state.ejected for state in replicas.balancer.states())


def test_an_answer_in_between_resets_the_count():
    replicas = Replicas("a", "b")
    for error in (gone, gone, None, gone, gone):
        replicas.send_all(2, error)
    assert not replicas.state("a").ejected
    assert replicas.state("a").failures == 2


def test_an_ejected_replica_is_checked_and_returns_on_trial():
    replicas = Replicas("a", "b")
    replicas.send_all(6, gone)
    assert replicas.check(ready=True) == []  # its time is not over
    replicas.clock.now += 1.0
    due = replicas.balancer.due()
    assert len(due) == 1
    assert replicas.balancer.due() == []  # one check at a time
    replicas.balancer.checked(due[0], True)
    replicas.send_all(2, gone)  # one failure is enough now
    assert replicas.state("a").ejected
    replicas.clock.now += 2.0
    replicas.check(ready=True)
    replicas.send_all(2)
    replicas.send_all(4, gone)  # an answer ended the trial
    assert not replicas.state("a").ejected


def test_the_ejection_time_grows_to_a_minute_and_is_forgotten():
    replicas = Replicas("a", "b")
    replicas.send_all(6, gone)
    lengths = []
    for _ in range(8):
        lengths.append(replicas.state("a").ejected_for)
        replicas.clock.now += lengths[-1]
        assert replicas.check(ready=False) == ["a"]
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    replicas.clock.now += 60
    replicas.check(ready=True)
    replicas.clock.now += 61
    replicas.send_all(2)
    replicas.send_all(6, gone)
    assert replicas.state("a").ejected_for == 1.0


def test_failures_from_before_the_ejection_count_once():
    replicas = Replicas("a", "b")
    replica = replicas.replica("a")
    calls = [replicas.balancer.begin(replica, 10.0, "id") for _ in range(8)]
    replicas.clock.now += 0.5
    for call in calls[:7]:
        replicas.balancer.end(call, UnavailableError("gone"))
    assert replicas.state("a").ejected_for == 1.0
    replicas.clock.now += 1.0
    replicas.check(ready=True)
    replicas.balancer.end(calls[7], UnavailableError("gone"))
    assert not replicas.state("a").ejected


def test_requests_that_nobody_answers_count_at_their_deadline():
    replicas = Replicas("a", "b")
    replica = replicas.replica("a")
    calls = [replicas.balancer.begin(replica, 10.0, "id") for _ in range(3)]
    replicas.clock.now += 9.9
    replicas.send()
    assert replicas.state("a").failures == 0
    replicas.clock.now += 0.2
    replicas.send()
    assert replicas.state("a").ejected
    assert replicas.state("a").in_flight == 3
    for call in calls:  # late answers do not bring it back: it must answer a check
        replicas.balancer.end(call, None)
    assert replicas.state("a").ejected
    assert replicas.state("a").in_flight == 0


def test_when_all_are_ejected_all_get_requests_and_an_answer_brings_one_back():
    replicas = Replicas("a", "b")
    replicas.send_all(6, UnavailableError("gone"))
    assert all(state.ejected for state in replicas.balancer.states())
    assert replicas.send_all(4, UnavailableError("gone")) == {"a": 2, "b": 2}
    replicas.clock.now += 0.1
    replicas.send(gone)
    replicas.send(gone)
    assert [state.ejected for state in replicas.balancer.states()] == [True, False]


def test_a_single_server_is_never_ejected():
    replicas = Replicas("a")
    replicas.send_all(50, gone)
    assert not replicas.state("a").ejected


def test_a_retry_goes_to_an_untried_replica_then_to_a_full_one_then_to_an_ejected_one():
    replicas = Replicas("a", "b", "c", "d")
    a, b, c, d = (replicas.replica(name) for name in "abcd")
    for _ in range(3):
        replicas.balancer.end(replicas.balancer.begin(d, 10.0, "id"), UnavailableError("gone"))
    full, failed = OverloadedError("full"), UnavailableError("gone")
    assert replicas.balancer.pick({a: full}) in (b, c)
    assert replicas.balancer.elsewhere({a: full})
    assert replicas.balancer.pick({a: full, b: failed, c: failed}) is a
    assert replicas.balancer.pick({a: failed, b: failed, c: failed}) is d
    assert not replicas.balancer.elsewhere({a: failed, b: failed, c: failed})
    assert replicas.balancer.pick({a: failed, b: failed, c: failed, d: failed}) in (a, b, c, d)


def test_throttling_is_per_replica():
    replicas = Replicas("a", "b")
    full = OverloadedError("full")
    for _ in range(200):
        replica = replicas.replica("a")
        replica.throttle.count(full)
    with pytest.raises(OverloadedError, match="not sent"):
        replicas.balancer.begin(replica, 10.0, "id")
    assert replicas.state("a").in_flight == 0
    replicas.balancer.begin(replicas.replica("b"), 10.0, "id")


def test_hedges_go_elsewhere_and_are_a_tenth_of_the_requests():
    replicas = Replicas("a", "b")
    hedged = 0
    for _ in range(1000):
        replica = replicas.balancer.pick({})
        second = replicas.balancer.hedge({replica: None})
        assert second is not replica
        hedged += second is not None
    assert 100 <= hedged <= 110  # ten are saved up at the start


def test_no_hedge_goes_to_an_ejected_or_tried_replica():
    replicas = Replicas("a", "b")
    a, b = replicas.replica("a"), replicas.replica("b")
    assert replicas.balancer.hedge({a: None, b: None}) is None
    replicas.send_all(6, gone)
    assert replicas.balancer.hedge({b: None}) is None


def test_a_removed_replica_gets_nothing_more_and_is_closed_when_its_calls_have_ended():
    replicas = Replicas("a", "b")
    call = replicas.balancer.begin(replicas.replica("a"), 10.0, "id")
    replicas.set("b", "c")
    assert set(replicas.send_all(10)) == {"b", "c"}
    assert replicas.balancer.leaving() == []
    assert sorted(replicas.balancer.transports()) == ["a", "b", "c"]
    replicas.balancer.end(call, None)
    assert replicas.balancer.leaving() == ["a"]
    assert replicas.balancer.leaving() == []


def test_a_replica_that_stays_keeps_its_record():
    replicas = Replicas("a", "b")
    replicas.send_all(6, gone)
    replicas.set("a", "b", "c")
    assert replicas.state("a").ejected
    assert replicas.state("b").sent == 3
