"""A real Redis, real worker processes, and an empty queue per test."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from veridict.deploy.manifest import default_repository, file_sha256, update_manifest
from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.embedded_redis import EmbeddedRedis
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.jobs.store import Store
from veridict.explain.jobs.telemetry import Metrics
from veridict.explain.jobs.worker import Worker
from veridict.explain.methods import METHODS
from veridict.explain.models import Models
from veridict.export.bundled import FACE_WEIGHTS

HERE = Path(__file__).parent


def load_fork_server():
    spec = importlib.util.spec_from_file_location("fork_server", HERE / "fork_server.py")
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
class WorkerProcesses:
    """Starts workers by asking the fork server, which has imported everything already."""

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
def fork_server(tmp_path_factory) -> Iterator[WorkerProcesses]:
    folder = tmp_path_factory.mktemp("workers")
    command = [sys.executable, str(HERE / "fork_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        yield WorkerProcesses(process, folder)
        process.stdin.close()


@pytest.fixture
def workers(fork_server, monkeypatch) -> Iterator[WorkerProcesses]:
    before = dict(METHODS)
    load_fork_server().register()  # the submitting process must know the methods too
    yield fork_server
    fork_server.stop_all()
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
def images(encode, cat) -> list[bytes]:
    """Distinct small PNG files."""
    return [encode(cat[i : i + 80, i : i + 96], "PNG") for i in range(40)]


#: A valid secret of webhooks.
SECRET = "whsec_" + "c2VjcmV0" * 4


@pytest.fixture
def worker(settings, client):
    queue = JobQueue(settings, settings.redis_url, "worker-a")
    worker = Worker(queue, Store(settings.store), Models(), Metrics(queue))
    queue.register_worker(worker.models.versions)
    yield worker
    queue.close()


def work(worker):
    """Handle every job that can be taken now; return the job ids in order."""
    seen = []
    while (delivery := worker.queue.take()) is not None:
        seen.append(delivery.fields.get("job"))
        worker.handle(delivery)
    return seen


@pytest.fixture(scope="session")
def other_repository_source(tmp_path_factory):
    """The bundled repository with another face CNN; its weights lie in the repository, as after an export."""
    from safetensors.numpy import load_file, save_file

    repository = tmp_path_factory.mktemp("other") / "repository"
    shutil.copytree(default_repository(), repository, ignore=shutil.ignore_patterns("__pycache__"))
    path = repository / "face_cnn/1/weights.safetensors"
    state = load_file(FACE_WEIGHTS)
    save_file(state | {"dense.weight": -state["dense.weight"]}, path)
    document = json.loads((repository / "manifest.json").read_text())
    document["networks"]["face_cnn"] |= {
        "weights": file_sha256(path),
        "weight_files": ["face_cnn/1/weights.safetensors"],
    }
    (repository / "manifest.json").write_text(json.dumps(document))
    update_manifest(repository)
    return repository


@pytest.fixture
def other_repository(other_repository_source, tmp_path):
    """A copy of that repository for one test."""
    return shutil.copytree(other_repository_source, tmp_path / "other_repository")
