"""Prepares images in child processes, within limits of time and memory.

:mod:`.prepare_process` is what runs in the children. A child that exceeds a limit, or crashes, costs its image an
error; the next image gets a new child.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from veridict.forensics.errors import ImageError
from veridict.forensics.preprocess import Prepared

from . import prepare_process
from .batching_executor import DeadlineExceeded
from .prepare_process import NUMBER, ProcessFailed, ProcessSettings

#: What the fork server keeps of the environment: how its interpreter is found, and the language.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "LANG", "LC_ALL", "TZ")
#: No threads: a fork takes only the calling one along. ONNX Runtime's telemetry, which it sends from 1.29 on, has one.
_SET = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ORT_DISABLE_TELEMETRY")
#: Seconds until the fork server has loaded the libraries, and until it has answered.
_START_TIMEOUT, _ANSWER_TIMEOUT = 60.0, 10.0


class Child(NamedTuple):
    """A child: its process id, that of the fork server which started it, and the connection to it."""

    pid: int
    server: int
    connection: socket.socket


class ForkServer:
    """The process that forks the children; started when it is needed, and again when it died. Safe between threads."""

    def __init__(self) -> None:
        """Prepare; nothing starts before the first :meth:`start_child`."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """Return the process id of the fork server, 0 while there is none."""
        return self._process.pid if self._process else 0

    def start_child(self, settings: ProcessSettings) -> Child:
        """Start a child.

        Raises:
            ProcessFailed: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                number, server = self._ask(prepare_process.write_start(settings), theirs.fileno())
                if number < 0:
                    raise ProcessFailed(f"no process can be started: {os.strerror(-number)}")
                return Child(number, server, ours)
            except BaseException:
                ours.close()
                raise

    def end_child(self, child: Child) -> int | None:
        """End a child if it still runs, and return its exit status as of waitpid(2).

        None: its fork server ended, and all children with it.
        """
        child.connection.close()
        try:
            return self._ask(prepare_process.write_end(child.pid), server=child.server)[0]
        except ProcessFailed:
            return None

    def close(self) -> None:
        """End the fork server and all children."""
        with self._lock:
            self._stop()

    def _ask(self, message: bytes, *descriptors: int, server: int = 0) -> tuple[int, int]:
        """Return the answer, and the process id of the fork server; it must be ``server`` where that is given."""
        with self._lock:
            try:
                if self._process is not None and self._process.poll() is not None:
                    self._stop()  # it was killed: the next child gets a new one
                if self._process is None and not server:
                    self._start()
                if self._process is None or self._control is None or server not in (0, self._process.pid):
                    raise EOFError
                socket.send_fds(self._control, [message], descriptors)
                return self._read_number(), self._process.pid
            except (OSError, EOFError) as error:
                if not server:
                    self._stop()
                raise ProcessFailed(f"the fork server ended: {type(error).__name__}") from None

    def _start(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [_interpreter(), "-P", "-m", prepare_process.__name__, str(theirs.fileno())],
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | dict.fromkeys(_SET, "1"),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._control.settimeout(_START_TIMEOUT)
        self._read_number()
        self._control.settimeout(_ANSWER_TIMEOUT)

    def _read_number(self) -> int:
        assert self._control is not None
        message = self._control.recv(NUMBER.size)
        if not message:
            raise EOFError
        number: int = NUMBER.unpack(message)[0]
        return number

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


class PrepareProcess:
    """One child, replaced when it ended; for one thread at a time."""

    def __init__(self, server: ForkServer, settings: ProcessSettings) -> None:
        """Start the child.

        Raises:
            ProcessFailed: it cannot be started.
        """
        self._server, self._settings = server, settings
        self._child: Child | None = server.start_child(settings)

    @property
    def pid(self) -> int:
        """Return the child's process id, 0 where there is none because none could be started."""
        return self._child.pid if self._child else 0

    def prepare(self, data: bytes, seconds: float, ends: float, alterations: bool = False) -> Prepared:
        """Return one prepared image, with the views of its ``alterations`` where they are asked for.

        Raises:
            ImageError: the image is refused, also because it took more than ``seconds`` of processor time.
            DeadlineExceeded: it was not ready at the time ``ends`` of the monotonic clock.
            ProcessFailed: it failed for another reason.
        """
        connection = self._find_waiting()
        try:
            connection.settimeout(max(0.001, ends - time.monotonic()))
            connection.sendall(prepare_process.write_request(data, seconds, alterations))
            return prepare_process.read_answer(connection)
        except ImageError as error:
            if error.code == "image.decode_memory":
                self._replace()
            raise
        except TimeoutError:
            self._replace()
            raise DeadlineExceeded from None
        except (EOFError, OSError):
            raise _reason(self._replace(), seconds) from None
        except ValueError as error:
            self._replace()
            raise ProcessFailed(f"an answer that cannot be read: {error}") from None

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child:
            self._server.end_child(child)

    def _find_waiting(self) -> socket.socket:
        """Return the connection to a child that waits for work; one that ended meanwhile is replaced."""
        try:
            if self._child is not None:
                self._child.connection.setblocking(False)
                self._child.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:  # open and silent
            assert self._child is not None
            return self._child.connection
        except OSError:
            pass
        self._replace()
        assert self._child is not None
        return self._child.connection

    def _replace(self) -> int | None:
        """End the child, start another one, and return the exit status; None where it is not known."""
        child, self._child = self._child, None
        status = self._server.end_child(child) if child else None
        self._child = self._server.start_child(self._settings)
        return status


def _interpreter() -> str:
    """Return the Python that this process runs: Triton's Python stub embeds the ``python3`` that is first on PATH."""
    return sys.executable or shutil.which("python3") or "python3"


def _reason(status: int | None, seconds: float) -> Exception:
    """Return why a child ended that nobody ended on purpose, by its exit status."""
    if status is None:
        return ProcessFailed("the fork server ended")
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if ended_by == signal.SIGPROF:
        return ImageError("image.decode_timeout", f"{seconds:g} s")
    if ended_by == signal.SIGKILL:  # by the kernel, which is out of memory
        return ImageError("image.decode_memory")
    return ImageError("image.decode_crash", signal.strsignal(ended_by) or "" if ended_by else "")


class PreparePool:
    """A number of children; safe to use from as many threads."""

    def __init__(self, server: ForkServer, count: int, settings: ProcessSettings, seconds: float) -> None:
        """Start ``count`` children; an image may take ``seconds`` of processor time.

        Raises:
            ProcessFailed: they cannot be started.
        """
        self._seconds = seconds
        # The child that worked last works next: its memory is in the caches.
        self._idle: queue.LifoQueue[PrepareProcess] = queue.LifoQueue()
        self.processes = [PrepareProcess(server, settings) for _ in range(count)]
        for process in self.processes:
            self._idle.put(process)

    def prepare(self, data: bytes, ends: float, alterations: bool = False) -> Prepared:
        """Return one prepared image; see :meth:`PrepareProcess.prepare` for the errors."""
        process = self._idle.get()
        try:
            return process.prepare(data, self._seconds, ends, alterations)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the children; call it when no image is being prepared."""
        for process in self.processes:
            process.close()
