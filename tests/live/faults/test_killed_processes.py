"""Processes of a server under load are killed: every request has one outcome, and the standby takes over."""

import os
import signal
import threading
import time
from collections import Counter

import pytest

from veridict.client import InternalError, OverloadedError, UnavailableError
from veridict.deploy.stub_processes import find_stubs

from .service import assert_nothing_is_left, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

MODELS = ("clip_image", "clip_text", "face_cnn", "face_cnn_explain", "fusion", "preprocess")


class Load:
    """Threads that send one image after another, each attempt once, until the ``with`` ends; outcomes by name."""

    def __init__(self, service, data, threads=3):
        self.service, self.data = service, data
        self.outcomes: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def _send(self):
        with self.service.client(deadline=30.0, attempts=1) as client:
            while not self._stop.is_set():
                try:
                    client.detect(self.data)
                    self.outcomes["verdict"] += 1
                except (InternalError, OverloadedError, UnavailableError) as error:
                    self.outcomes[error.code] += 1
                    self._stop.wait(0.02)
                except Exception as error:
                    self.unexpected.append(f"{type(error).__name__}: {error}")

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.outcomes["verdict"] >= 3)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def victims(service, what):
    """Return the process ids that a case kills."""
    if what == "tritonserver":
        return [service.server.pid]
    if what == "all stubs":
        return list(find_stubs(service.server.pid))
    return [service.stubs()[what]]


@pytest.mark.parametrize("what", [*MODELS, "all stubs", "tritonserver"])
def test_after_kill_9_under_load_the_standby_serves(service, photo, what):
    standby = service.wait_for_standby()
    before, old = service.footprint(), service.server
    with Load(service, photo) as load:
        began = time.monotonic()
        for pid in victims(service, what):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not old.is_running())
        with service.client() as client:
            wait_until(lambda: client.ready(1.0))
        back = time.monotonic() - began
        verdicts = load.outcomes["verdict"]
        wait_until(lambda: load.outcomes["verdict"] > verdicts)
    assert not load.unexpected
    assert service.server == standby
    service.wait_for_standby()
    assert_nothing_is_left(service, before)
    print(f"{what}: back after {back:.2f} s; {dict(load.outcomes)}")
