"""A real ``veridict serve`` of its own for the fault tests, and what it costs the machine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from veridict.client import ClientConfig, DetectorClient, ServerError, Verdict
from veridict.deploy.stub_processes import find_stubs, model_of

SHARED_MEMORY = Path("/dev/shm")
#: The models that a standby has loaded while it waits; ``fusion`` waits, and ``detector`` comes after it.
LOADED = ("clip_image", "clip_text", "face_cnn", "face_cnn_explain", "preprocess")
MEBIBYTE = 1024**2


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return what ``condition`` returns once that is true; fail after so many seconds."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)
    return found


@dataclass(frozen=True)
class Footprint:
    """What a service has: living processes by name, entries of /dev/shm, open file handles, and resident bytes."""

    processes: Counter[str]
    shared_memory: int
    handles: int
    resident: int

    def __str__(self) -> str:
        """Return one line."""
        return (
            f"{self.processes.total()} processes, {self.shared_memory} shared-memory entries, {self.handles} handles, "
            f"{self.resident // MEBIBYTE} MiB resident"
        )


class Service:
    """A running ``veridict serve`` on free ports of loopback; use it as a context manager."""

    def __init__(
        self, *options: str, prefix: Sequence[str] = (), environment: dict[str, str] | None = None, port: int = 0
    ) -> None:
        """Start it. ``prefix``: words before the command, such as those of ``unshare``."""
        command = [*prefix, sys.executable, "-m", "veridict.deploy.command", "serve", *options]
        command += ["--grpc-port", str(port), "--http-port", "0", "--metrics-port", "0"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> Service:
        """Return once it is ready."""
        try:
            wait_until(lambda: self.announced or self.process.poll() is not None, 180.0)
            assert self.announced, "\n".join(self.lines[-30:])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def stop(self) -> int:
        """Stop it as an operator does, and return its status."""
        self.process.terminate()
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def count(self, text: str) -> int:
        """Return how many lines of the log hold a text."""
        return sum(text in line for line in self.lines)

    @property
    def announced(self) -> int:
        """Return how many servers became ready so far."""
        return self.count("ready: gRPC")

    def _announcement(self) -> str:
        return next(line for line in self.lines if line.startswith("ready: gRPC"))

    @property
    def url(self) -> str:
        """Return host:port of the gRPC endpoint, which stays the same."""
        return self._announcement().removeprefix("ready: gRPC ").partition(",")[0]

    @property
    def health_url(self) -> str:
        """Return the URL of Triton's readiness."""
        return self._announcement().partition("health ")[2]

    @property
    def metrics_url(self) -> str:
        """Return the URL of the metrics."""
        return next(line for line in self.lines if line.startswith("metrics ")).split()[1].rstrip(";")

    def client(self, deadline: float = 60.0, **settings: Any) -> DetectorClient:
        """Return a client of this service."""
        return DetectorClient(config=ClientConfig(self.url, deadline=deadline, **settings))

    def judge(self, data: bytes) -> Verdict:
        """Return the verdict on one image, from a client of its own."""
        with self.client() as client:
            return client.detect(data)

    def answers(self, data: bytes) -> bool:
        """Return whether an image gets a verdict now."""
        try:
            return bool(self.judge(data).verdict)
        except ServerError:
            return False

    def children(self, name: str) -> list[psutil.Process]:
        """Return the launcher's child processes of a name, oldest first."""
        found = []
        for child in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if child.name() == name:
                    found.append((child.create_time(), child))
        return [child for _, child in sorted(found, key=lambda pair: pair[0])]

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    @property
    def server(self) -> psutil.Process:
        """Return the tritonserver that serves; a standby is younger."""
        return self.children("tritonserver")[0]

    def stubs(self) -> dict[str, int]:
        """Return the process id of each model's stub of the server that serves."""
        return {model_of(pid): pid for pid in find_stubs(self.server.pid)}

    def wait_for_standby(self) -> psutil.Process:
        """Return the standby once it has loaded its models."""

        def loaded() -> bool:
            _, _, since = "\n".join(self.lines).rpartition("veridict: loading a standby")
            return (
                len(self.children("tritonserver")) == 2
                and "takes over" not in since
                and all(f"successfully loaded '{model}'" in since for model in LOADED)
            )

        try:
            wait_until(loaded, 240.0)
        except AssertionError as error:
            raise AssertionError("no standby:\n" + "\n".join(self.lines[-40:])) from error
        return self.children("tritonserver")[1]

    def footprint(self) -> Footprint:
        """Return what this service has now."""
        family = self._family()
        servers = [child.pid for child in family if child.name() == "tritonserver"]
        prefixes = [f"veridict-{self.process.pid}-", *(f"veridict-slots-{pid}-" for pid in servers)]
        names, handles, resident = Counter[str](), 0, 0
        for child in family:
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    continue
                handles += child.num_fds()
                resident += child.memory_info().rss
                names[child.name()] += 1
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue
        entries = [path.name for path in SHARED_MEMORY.iterdir() if path.name.startswith(tuple(prefixes))]
        return Footprint(names, len(entries), handles, resident)


def assert_nothing_is_left(service: Service, before: Footprint, handles: int = 20, resident: int = 400) -> Footprint:
    """Fail unless the service comes to have what it had: the same processes and shared memory, no more handles.

    A few ``handles`` and MiB ``resident`` more are allowed: connections that are still open, memory that is kept for
    later requests.
    """
    after = service.footprint()

    def settled() -> bool:
        nonlocal after
        after = service.footprint()
        return (
            after.processes == before.processes
            and after.shared_memory == before.shared_memory
            and after.handles <= before.handles + handles
            and after.resident <= before.resident + resident * MEBIBYTE
        )

    try:
        wait_until(settled, 60.0)
    except AssertionError as error:
        raise AssertionError(f"before: {before} {before.processes}; after: {after} {after.processes}") from error
    print(f"before: {before}; after: {after}")
    return after
