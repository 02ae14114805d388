"""The wall clock of all our Python code jumps by years while the service works: nothing notices.

A tool that moves the clock of whole processes was not to be had: libfaketime 0.9.10 breaks Python's own sleep, which
waits for an absolute time. Triton's C++ code therefore keeps the true time here.
"""

import os
import shutil
import time

import pytest

from veridict.client import DeadlineError
from veridict.deploy.manifest import update_manifest

from .service import Service

pytestmark = [pytest.mark.live, pytest.mark.slow]

YEAR = 365 * 86400
#: Runs at the start of Python processes and models: ``time.time`` moves by the seconds in a file.
MOVED_CLOCK = """
import os, time
from pathlib import Path
folder, true_time = Path({folder!r}), time.time
time.time = lambda: true_time() + float((folder / "jump").read_text())
(folder / str(os.getpid())).touch()
"""


def test_a_wall_clock_that_jumps_by_years_changes_nothing(photo, small_repository, tmp_path):
    def jump(seconds):
        (tmp_path / "next").write_text(str(seconds))
        os.replace(tmp_path / "next", tmp_path / "jump")

    jump(0)
    moved_clock = MOVED_CLOCK.format(folder=str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(moved_clock)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    repository = shutil.copytree(small_repository, tmp_path / "repository")
    for model in repository.glob("*/1/model.py"):  # a stub does not run sitecustomize
        model.write_text(moved_clock + model.read_text())
    update_manifest(repository)
    options = ("--no-standby", "--repository", str(repository))
    with Service(*options, environment={**os.environ, "PYTHONPATH": path}) as service, service.client() as client:
        for pid in (service.process.pid, *service.stubs().values()):
            assert (tmp_path / str(pid)).exists(), "a process has the true clock"
        expected = client.detect(photo)
        for years in (3, -3, 0):
            jump(years * YEAR)
            assert client.ready()
            began = time.monotonic()
            verdict = client.detect(photo)
            assert verdict.fake_probability == expected.fake_probability
            # The times in the answer are measured: within what the request took here.
            assert 0 <= sum(verdict.timings_ms.values()) <= 1000 * (time.monotonic() - began) + 1
            with pytest.raises(DeadlineError):
                client.detect(photo, deadline=0.001)
        assert service.announced == 1
        assert service.server.is_running()


def test_a_clients_deadline_holds_while_its_wall_clock_jumps(service, photo, monkeypatch):
    offsets = iter(range(10**6))
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + YEAR * (-1) ** next(offsets) * 3)
    with service.client(deadline=60.0) as client:
        assert client.detect(photo).verdict
        began = time.monotonic()
        with pytest.raises(DeadlineError):
            client.detect(photo, deadline=0.001)
        assert time.monotonic() - began < 30
