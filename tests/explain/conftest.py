"""A real Redis, a place to start real workers, and a queue of its own per test."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.embedded_redis import EmbeddedRedis
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.methods import METHODS

HERE = Path(__file__).parent


def load_workshop():
    spec = importlib.util.spec_from_file_location("workshop", HERE / "workshop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_until(condition: Callable[[], object], seconds: float = 20.0, pause: float = 0.01) -> object:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(pause)
    raise AssertionError("it did not happen in time")


@dataclass
class Workshop:
    """Starts workers by forking a process that has imported everything already."""

    process: subprocess.Popen
    folder: Path
    pids: list[int] = field(default_factory=list)
    logs: int = 0

    def start(self, settings: QueueSettings, *extra: str, environment: dict[str, str] | None = None) -> int:
        self.logs += 1
        arguments = ["--redis", settings.redis_url, "--store", settings.store, "--state", str(settings.state)]
        arguments += ["--lease", str(settings.lease), "--backoff", str(settings.backoff), "--port", "0", "--nice", "0"]
        log = self.folder / f"worker-{self.logs}.log"
        order = {"arguments": [*arguments, *extra], "log": str(log), "environment": environment or {}}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        self.pids.append(pid)
        wait_until(log.exists)
        return pid

    def log(self) -> Path:
        return self.folder / f"worker-{self.logs}.log"

    def alive(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def stop(self, pid: int, number: int = signal.SIGTERM, seconds: float = 15.0) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_until(lambda: not self.alive(pid), seconds)

    def stop_all(self) -> None:
        for pid in self.pids:
            self.stop(pid, signal.SIGKILL)
        self.pids.clear()


@pytest.fixture(scope="session")
def workshop_process(tmp_path_factory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, str(HERE / "workshop.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        yield Workshop(process, folder)
        process.stdin.close()


@pytest.fixture
def workshop(workshop_process, monkeypatch) -> Iterator[Workshop]:
    before = dict(METHODS)
    load_workshop().register()  # the submitting side must know the names as well
    yield workshop_process
    workshop_process.stop_all()
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path_factory.mktemp("r"))
    server.ensure()
    yield server
    server.stop()


@pytest.fixture
def settings(redis_server, tmp_path) -> QueueSettings:
    return QueueSettings(
        redis_url=redis_server.url, state=tmp_path, prefix="{veridict}", lease=0.6, backoff=0.1, store_url=""
    )


@pytest.fixture
def client(settings) -> Iterator[ExplanationClient]:
    with ExplanationClient(settings) as client:
        client.queue.client.flushall()
        yield client


@pytest.fixture(scope="session")
def pictures(encode, cat) -> list[bytes]:
    """Distinct small PNG files."""
    return [encode(cat[i : i + 80, i : i + 96], "PNG") for i in range(40)]
