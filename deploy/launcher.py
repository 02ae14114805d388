"""``veridict serve``: finds tritonserver, starts it on loopback, waits until it is ready, and stops it cleanly."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .manifest import default_repository
from .repository import check_repository


class LaunchError(RuntimeError):
    """The server could not be started or died; the message says why and what to do."""


@dataclass(frozen=True)
class ServerSettings:
    """How to start one server. Ports: 0 picks a free one."""

    repository: Path = field(default_factory=default_repository)
    profile: str = "cpu"
    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    ready_timeout: float = 120.0
    stop_timeout: float = 20.0


@dataclass(frozen=True)
class Installation:
    """Where a tritonserver was found; ``bundled`` means inside the pip-installed wheel."""

    binary: Path
    bundled: Path | None


def find_triton() -> Installation:
    """Return tritonserver from PATH, or from the ``nvidia-pytriton`` wheel of this environment.

    Raises:
        LaunchError: neither is there.
    """
    on_path = shutil.which("tritonserver")
    if on_path:
        return Installation(Path(on_path), None)
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent / "tritonserver"
        if (root / "bin" / "tritonserver").exists():
            return Installation(root / "bin" / "tritonserver", root)
    raise LaunchError("no tritonserver: put one on PATH, or install the embedded one: pip install 'veridict[server]'")


def pick_ports(settings: ServerSettings) -> dict[str, int]:
    """Return the ports by name, free ones in place of 0.

    Raises:
        LaunchError: a port is taken or two are the same.
    """
    wanted = {"grpc": settings.grpc_port, "http": settings.http_port, "metrics": settings.metrics_port}
    chosen = [port for port in wanted.values() if port]
    if len(set(chosen)) != len(chosen):
        raise LaunchError(f"a port is taken twice: gRPC, HTTP and metrics each need their own, not {wanted}")
    sockets, ports = [], {}
    try:
        for name, port in wanted.items():
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets.append(probe)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise LaunchError(
                    f"the {name} port {port} on {settings.host} is taken ({error.strerror}): stop what listens there, "
                    f"or choose another with --{name}-port (0 picks a free one)"
                ) from error
            ports[name] = probe.getsockname()[1]
    finally:
        for probe in sockets:
            probe.close()
    return ports


def _private_backends(installation: Installation, folder: Path) -> Path:
    """Link the python backend and the stub of this Python version into a backend folder of our own."""
    assert installation.bundled is not None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = installation.bundled / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise LaunchError(f"the installed Triton wheel has no python-backend stub for Python {version}")
    target = folder / "backends" / "python"
    target.mkdir(parents=True)
    for path in (installation.bundled / "backends" / "python").iterdir():
        (target / path.name).symlink_to(path)
    link = target / stub.name
    link.unlink(missing_ok=True)
    link.symlink_to(stub)
    return target.parent


def _environment(installation: Installation) -> dict[str, str]:
    """Return the child's environment: the stub embeds the ``python3`` that stands first on PATH."""
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    env.pop("PYTHONHOME", None)
    if installation.bundled is not None:
        libraries = [
            sysconfig.get_config_var("LIBDIR") or "",
            str(installation.bundled.parents[1] / "nvidia_pytriton.libs"),
        ]
        env["LD_LIBRARY_PATH"] = os.pathsep.join([*filter(None, libraries), env.get("LD_LIBRARY_PATH", "")]).rstrip(":")
    return env


class TritonServer:
    """A tritonserver child process; a context manager that is ready inside the ``with`` and gone after it.

    Raises (on entering):
        LaunchError: Triton or a port is not to be had, or the server ended before it was ready.
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
        return f"veridict-{os.getpid()}-{self.ports['grpc']}-"

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
        ]
        if settings.profile == "cpu":
            arguments += ["--model-config-name=cpu", "--allow-gpu-metrics=false"]
        if installation.bundled is not None:
            arguments.append(f"--backend-directory={_private_backends(installation, folder)}")
        return arguments

    def start(self) -> None:
        """Start the server and return once every model is ready."""
        check_repository(self.settings.repository, self.settings.profile)
        installation = find_triton()
        self.ports = pick_ports(self.settings)
        self._folder = Path(tempfile.mkdtemp(prefix="veridict-"))
        try:
            self._process = subprocess.Popen(
                self.command(installation, self._folder),
                env=_environment(installation),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # an interrupt at the terminal reaches us, and we stop it in order
            )
            self._reader = threading.Thread(target=self._read_log, daemon=True)
            self._reader.start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._tail.append(line.rstrip("\n"))
            if self._log is not None:
                self._log(line.rstrip("\n"))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.settings.ready_timeout
        url = f"http://{self.settings.host}:{self.ports['http']}/v2/health/ready"
        while time.monotonic() < deadline:
            if not self.alive():
                assert self._reader is not None
                self._reader.join(timeout=5)
                raise LaunchError("tritonserver ended before it was ready; its last lines:\n" + "\n".join(self._tail))
            try:
                with urllib.request.urlopen(url, timeout=1) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise LaunchError(f"tritonserver was not ready after {self.settings.ready_timeout:.0f} s")

    def alive(self) -> bool:
        """Return whether the server process runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Block until the server ends by itself; return its exit status."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """Stop the server: requests in flight are finished, then its whole process group is gone; idempotent."""
        if self._process is not None:
            if self.alive():
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(self.settings.stop_timeout)
                except subprocess.TimeoutExpired:
                    pass
            try:
                os.killpg(self._process.pid, signal.SIGKILL)  # stubs that outlived their server
            except ProcessLookupError:
                pass
            self._process.wait()
            # A server that died, or that had to be killed, leaves its regions behind.
            for pattern in (f"{self._shared_memory_prefix}*", f"veridict-slots-{self._process.pid}-*"):
                for region in Path("/dev/shm").glob(pattern):  # noqa: S108 - shm_open's folder
                    region.unlink(missing_ok=True)
            if self._reader is not None:
                self._reader.join(timeout=5)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
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
