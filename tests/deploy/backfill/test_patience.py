"""Waiting for a service that is away."""

import itertools

import pytest

from veridict.client import ClientConfig
from veridict.deploy.backfill.judges import JudgeSettings, ServiceJudge
from veridict.deploy.backfill.patience import Patience
from veridict.deploy.backfill.plan import Request
from veridict.deploy.backfill.ray_session import Pool
from veridict.deploy.backfill.reading import read_source
from veridict.deploy.backfill.results import Failure
from veridict.deploy.backfill.run import run_backfill
from veridict.deploy.backfill.storage import BackfillError
from veridict.deploy.ports import free_ports

ERROR = OSError("away")


class Clock:
    """Time that passes only in sleeps."""

    def __init__(self):
        self.time, self.slept = 100.0, []

    def __call__(self):
        return self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += max(seconds, 0.01)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def patience(clock):
    return Patience(60.0, clock, clock.sleep)


def wait_to_the_end(patience):
    """Wait as a failing image does; return the number of tries when the service is not to blame."""
    began = patience.now()
    return next(tries for tries in itertools.count(1) if not patience.wait(began, tries, ERROR))


def test_a_service_that_never_answers_ends_the_run(patience, clock):
    patience.answered()
    clock.sleep(1.0)  # it answered before, but not since
    with pytest.raises(BackfillError, match=r"no answer for 60 s .*the last error: away"):
        wait_to_the_end(patience)
    assert sum(clock.slept) == pytest.approx(61.0, abs=1.0)
    assert max(clock.slept) <= 15.0


def test_an_image_that_fails_alone_does_not_end_the_run(patience, clock):
    began = patience.now()
    assert patience.wait(began, 1, ERROR)
    patience.answered()  # about another image
    clock.time += 60.0
    assert not patience.wait(began, 2, ERROR)


def test_a_store_that_comes_back_is_read(patience, clock, tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"image")
    answers = iter([ERROR, ERROR, None])

    def is_file(self):
        if error := next(answers):
            raise error
        return True

    monkeypatch.setattr("pathlib.Path.is_file", is_file)
    assert read_source(str(path), patience) == b"image"
    assert len(clock.slept) == 2


def test_a_name_that_no_store_takes_fails_at_once(patience, clock):
    assert read_source("nowhere://a.jpg", patience).code == "read.failed"
    assert clock.slept == []


@pytest.fixture
def nobody():
    """The configuration of a client of a port where nobody listens."""
    port = free_ports("127.0.0.1", {"grpc": 0})["grpc"]
    return ClientConfig(f"127.0.0.1:{port}", deadline=0.5, attempts=1)


def test_a_service_without_a_listener_is_waited_for_and_then_ends_the_run(nobody):
    judge = ServiceJudge(nobody, 1, Patience(0.5))
    with pytest.raises(BackfillError, match=r"no answer for 0.5 s \(--patience\)"):
        judge.judge([b"image"])
    judge.close()


def test_a_run_without_a_service_makes_no_plan(nobody, archive, output, tmp_path):
    with pytest.raises(BackfillError, match="cannot judge: the server cannot be reached"):
        run_backfill(output, Request((str(archive),)), JudgeSettings(nobody), Pool(1))
    assert not (tmp_path / "output").exists()


@pytest.mark.live
def test_a_service_refuses_an_image_and_judges_the_others(triton, encode, cat):
    judge = ServiceJudge(ClientConfig(triton.url, deadline=60.0), 2, Patience(60.0))
    good, broken = judge.judge([encode(cat), b"no image"])
    assert good.models == JudgeSettings(ClientConfig(triton.url, deadline=60.0)).models()
    assert broken == Failure("image.unsupported_format", broken.message)
    judge.close()
