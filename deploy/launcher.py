"""``veridict serve``: finds tritonserver, starts it on loopback, waits until it is ready, and stops it cleanly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .hardening import hardening_options
from .installation import POLICIES, Installation, LaunchError, environment, find_triton, private_backends
from .leftovers import remove_leftovers, start_guard
from .local_http import open_url
from .manifest import default_repository
from .policies import check_policies
from .ports import AddressError, free_ports
from .repository import check_repository
from .server_tls import ServerTls, check_exposure
from .shared_memory import check_shared_memory
from .start_gate import StartGate
from .stub_processes import StubWatch
from .tracing import triton_arguments

__all__ = ["Installation", "LaunchError", "ServerSettings", "TritonServer", "find_triton", "pick_ports"]

#: Seconds between two looks at the server's Python processes.
_WATCH_INTERVAL = 0.2


@dataclass(frozen=True)
class ServerSettings:
    """How to start one server. Ports: 0 picks a free one. ``otlp`` and ``trace_rate``: see :mod:`.tracing`.

    ``options``: further options of tritonserver, such as ``--grpc-max-connection-age=30000``. ``tls``: of the gRPC
    endpoint; health and metrics have none. ``admin_key``: see :mod:`.hardening`.
    ``known_content``: the folder of banks of known pictures. ``policies``: the folder of policies by name.
    """

    repository: Path = field(default_factory=default_repository)
    profile: str = "cpu"
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    ready_timeout: float = 120.0
    stop_timeout: float = 20.0
    otlp: str = ""
    trace_rate: int = 0
    options: tuple[str, ...] = ()
    tls: ServerTls | None = None
    admin_key: str = field(default="", repr=False)
    known_content: Path | None = None
    policies: Path | None = None

    @property
    def ports(self) -> dict[str, int]:
        """Return the wanted ports by name."""
        return {"grpc": self.grpc_port, "http": self.http_port, "metrics": self.metrics_port}


def pick_ports(settings: ServerSettings) -> dict[str, int]:
    """Return the ports by name, free ones in place of 0.

    Raises:
        LaunchError: the address or a port cannot be used, or two ports are the same.
    """
    try:
        return free_ports(settings.host, settings.ports)
    except AddressError as error:
        raise LaunchError(str(error)) from error


class TritonServer:
    """A tritonserver child process; a context manager that is ready inside the ``with`` and gone after it.

    Raises (on entering):
        LaunchError: Triton, a port or a sound policy is not to be had, or the server ended before it was ready.
        RepositoryError: the model repository is incomplete or altered.
    """

    def __init__(self, settings: ServerSettings, log: Callable[[str], None] | None = None) -> None:
        """Prepare; nothing starts before ``start`` or ``with``. ``log`` receives each line of the server's log."""
        self.settings = settings
        self._log = log
        self._tail: deque[str] = deque(maxlen=60)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._stopping = threading.Event()
        self._gate: StartGate | None = None
        #: Why the server was ended because it could no longer answer; "" while it can.
        self.fault = ""
        self.ports: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Return host:port of the gRPC endpoint."""
        return f"{self.settings.host}:{self.ports['grpc']}"

    @property
    def metrics_url(self) -> str:
        """Return the URL of the Prometheus endpoint."""
        return f"http://{self.settings.host}:{self.ports['metrics']}/metrics"

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def _shared_memory_prefix(self) -> str:
        # A standby has the ports of the server that it replaces, so these do not tell them apart.
        return f"veridict-{os.getpid()}-{self.ports['grpc']}-{id(self):x}-"

    def command(self, installation: Installation, folder: Path) -> list[str]:
        """Return the command line."""
        settings = self.settings
        arguments = [
            str(installation.binary),
            f"--model-repository={settings.repository.resolve()}",
            f"--grpc-address={settings.host}",
            f"--grpc-port={self.ports['grpc']}",
            f"--http-address={settings.host}",
            f"--http-port={self.ports['http']}",
            f"--metrics-address={settings.host}",
            f"--metrics-port={self.ports['metrics']}",
            "--exit-on-error=true",
            "--exit-timeout-secs=10",
            "--disable-auto-complete-config",
            # Its own prefix keeps two servers on one machine from taking each other's shared memory for leftovers.
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            *triton_arguments(settings.otlp, settings.trace_rate),
            *hardening_options(installation, settings.admin_key, settings.options),
            *(settings.tls.arguments() if settings.tls is not None else ()),
            *settings.options,
        ]
        if settings.profile == "cpu":
            arguments += ["--model-config-name=cpu", "--allow-gpu-metrics=false"]
        if installation.bundled is not None:
            arguments.append(f"--backend-directory={private_backends(installation, folder)}")
        return arguments

    def start(self) -> None:
        """Start the server, or let the standby that it is listen; return once every model is ready."""
        try:
            if self._process is None:
                self._launch()
            self.release()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def hold(self) -> None:
        """Start a warm standby: its models load, and it listens only after :meth:`start`. No port may be 0."""
        try:
            self._launch(standby=True)
        except BaseException:
            self.stop()
            raise

    def release(self) -> None:
        """Let a standby listen as soon as its models are loaded; without effect on other servers."""
        if self._gate is not None:
            self._gate.open()
            self._gate = None

    def _launch(self, standby: bool = False) -> None:
        check_repository(self.settings.repository, self.settings.profile)
        if policies := self.settings.policies or os.environ.get(POLICIES):
            check_policies(Path(policies), self.settings.repository, self.settings.profile)
        installation = find_triton()
        if standby:  # ports and shared memory are still those of the server that it will replace
            self.ports = self.settings.ports
        else:
            self.ports = pick_ports(self.settings)
            warnings = [check_shared_memory(self.settings.repository, self.settings.profile)]
            for warning in filter(None, warnings + check_exposure(self.settings.host, self.settings.tls)):
                self._say(warning)
        self.fault = ""
        self._stopping.clear()
        self._folder = Path(tempfile.mkdtemp(prefix="veridict-"))
        self._gate = StartGate(self._folder) if standby else None
        self._process = subprocess.Popen(
            self.command(installation, self._folder),
            env=environment(installation, self.settings.known_content, self.settings.policies)
            | (self._gate.environment if self._gate is not None else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # an interrupt at the terminal reaches us, and we stop it in order
        )
        self._guard = start_guard(self._process.pid, self._shared_memory_prefix, self._folder)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._watcher = threading.Thread(target=self._watch_stubs, args=(self._process,), daemon=True)
        self._watcher.start()

    def _say(self, line: str) -> None:
        self._tail.append(line)
        if self._log is not None:
            self._log(line)

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._say(line.rstrip("\n"))

    def _watch_stubs(self, process: subprocess.Popen[str]) -> None:
        """End a server of which a Python process died: it would fail every request and still say that it is ready."""
        watch = StubWatch(process.pid)
        while not self._stopping.wait(_WATCH_INTERVAL) and process.poll() is None:
            if fault := watch.find_fault():
                self.fault = fault
                self._say(f"veridict: {fault}; the server is ended, since it cannot answer")
                os.killpg(process.pid, signal.SIGKILL)
                return

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.settings.ready_timeout
        url = f"http://{self.settings.host}:{self.ports['http']}/v2/health/ready"
        while time.monotonic() < deadline:
            if not self.alive():
                assert self._reader is not None
                self._reader.join(timeout=5)
                raise LaunchError("tritonserver ended before it was ready; its last lines:\n" + "\n".join(self._tail))
            try:
                open_url(url, timeout=1).close()
                return
            except OSError:  # an HTTP error status too
                pass
            time.sleep(0.1)
        raise LaunchError(f"tritonserver was not ready after {self.settings.ready_timeout:.0f} s")

    def alive(self) -> bool:
        """Return whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int | None:
        """Block until the server ends by itself, at most ``timeout`` seconds; return its exit status, or None."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Stop the server: requests in flight are finished, then its whole process group is gone; idempotent."""
        self._stopping.set()
        if self._process is not None:
            if self.alive() and self._gate is None:  # a standby has nothing to finish
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(self.settings.stop_timeout)
                except subprocess.TimeoutExpired:
                    pass
            remove_leftovers(self._process.pid, self._shared_memory_prefix)
            self._process.wait()
            for thread in (self._watcher, self._reader):
                if thread is not None:
                    thread.join(timeout=5)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        self.release()
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            self._guard = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> TritonServer:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
