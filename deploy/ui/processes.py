"""Child processes of ``veridict ui``: they end with it, also when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: Runs a command that receives SIGTERM when its parent dies.
_EXIT_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


@contextlib.contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None = None, stop_seconds: float = 30.0
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the end of the ``with``; SIGTERM ends it, and SIGKILL after ``stop_seconds``.

    ``environment`` is added to this process's. ``log`` takes its output; None: the output of this process.
    """
    wrapped = [sys.executable, "-ISc", _EXIT_WITH_PARENT, *command] if sys.platform == "linux" else list(command)
    with contextlib.ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("ab"))
        process = subprocess.Popen(
            wrapped,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops the others in order
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(stop_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
