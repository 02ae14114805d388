"""Client-side throttling: when requests are held back, and when they are not."""

import asyncio

import pytest

from veridict.client import (
    AsyncDetectorClient,
    ClientConfig,
    DeadlineError,
    DetectorClient,
    InvalidImageError,
    OverloadedError,
    UnavailableError,
)
from veridict.client.throttle import Throttle

FULL = OverloadedError("full")


def held_back(throttle):
    try:
        throttle.check("id")
    except OverloadedError:
        return True
    return False


def throttled(ratio, taken, refused, draw=0.0, clock=lambda: 0.0):
    throttle = Throttle(ratio, clock, lambda: draw)
    for _ in range(taken):
        throttle.count(None)
    for _ in range(refused):
        throttle.count(FULL)
    return throttle


def test_nothing_is_held_back_while_the_server_takes_what_it_gets():
    assert not held_back(throttled(1.5, taken=1000, refused=0))
    assert not held_back(throttled(1.5, taken=1000, refused=500))


def test_a_few_refusals_hold_nothing_back_from_a_client_with_few_requests():
    assert not held_back(throttled(1.5, taken=0, refused=10))
    assert held_back(throttled(1.5, taken=0, refused=12))


@pytest.mark.parametrize(("draw", "held"), [(0.11, True), (0.13, False)])
def test_the_share_held_back_is_the_excess(draw, held):
    # 400 sent, 228 taken: the excess over 1.5 x 228 + 10 is 48, and of 400 that is 0.12.
    assert held_back(throttled(1.5, taken=228, refused=172, draw=draw)) is held


def test_one_request_in_ten_is_always_sent():
    assert not held_back(throttled(1.0, taken=0, refused=10_000, draw=0.9))
    assert held_back(throttled(1.0, taken=0, refused=10_000, draw=0.89))


def test_refusals_are_forgotten_within_seconds(clock):
    throttle = throttled(1.5, taken=0, refused=100, clock=clock)
    assert held_back(throttle)
    clock.now += 3.0  # 101 / e^3 = 5, and ten are passed over
    assert not held_back(throttle)


def test_what_is_held_back_says_so():
    with pytest.raises(OverloadedError) as caught:
        throttled(1.5, taken=0, refused=100).check("id")
    assert (caught.value.code, caught.value.request_id) == ("client.throttled", "id")


def test_off_means_off():
    assert not held_back(throttled(0, taken=0, refused=1000))
    with pytest.raises(ValueError, match="throttle"):
        ClientConfig(throttle=0.5)


@pytest.mark.parametrize("error", [UnavailableError("gone"), DeadlineError("late")])
def test_a_server_that_is_gone_or_late_is_no_reason(error):
    throttle = throttled(1.5, taken=0, refused=0)
    for _ in range(100):
        throttle.count(error)
    assert not held_back(throttle)


def test_a_refused_image_was_taken_in():
    throttle = throttled(1.5, taken=0, refused=100)
    for _ in range(200):
        throttle.count(InvalidImageError("bad"))
    assert not held_back(throttle)


class AlwaysFull:
    def __init__(self):
        self.calls = 0

    def infer(self, *arguments):
        self.calls += 1
        raise OverloadedError("full")

    def close(self):
        pass


def test_the_client_stops_asking_a_server_that_refuses_everything():
    transport = AlwaysFull()
    with DetectorClient(config=ClientConfig(attempts=1), transport=transport) as client:
        results = list(client.detect_many([b"x"] * 400))
    codes = [r.error.code for r in results]
    assert set(codes) == {"server.overloaded", "client.throttled"}
    assert transport.calls == codes.count("server.overloaded") < 200


def test_so_does_the_asyncio_client(monkeypatch):
    from tritonclient.utils import InferenceServerException

    calls = []

    async def refuse(self, **arguments):
        calls.append(arguments)
        raise InferenceServerException("[server.overloaded] full", "StatusCode.UNAVAILABLE")

    monkeypatch.setattr("tritonclient.grpc.aio.InferenceServerClient.infer", refuse)

    async def judge():
        async with AsyncDetectorClient(config=ClientConfig("127.0.0.1:9", attempts=1)) as client:
            return [r.error.code async for r in client.detect_many([b"x"] * 400)]

    codes = asyncio.run(judge())
    assert set(codes) == {"server.overloaded", "client.throttled"}
    assert len(calls) == codes.count("server.overloaded") < 200
