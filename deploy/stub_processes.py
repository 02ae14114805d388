"""The Python processes ("stubs") of a tritonserver, one per instance of a Python model, and whether they work.

Triton 2.51 neither restarts a stub that died nor becomes unready (fault 11 of docs/triton-2.51-faults.md): every
request that needs the model fails from then on. A dead stub stays a zombie, which Triton collects only at its own end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

#: The kernel keeps 15 characters of a process's name: of ``triton_python_backend_stub`` these.
_STUB = "triton_python_b"
#: Seconds for which a stub may be stopped by a signal.
_STOPPED_AFTER = 3.0
#: Seconds between two searches for new stubs.
_SCAN_INTERVAL = 2.0


def read_state(pid: int, proc: Path = Path("/proc")) -> tuple[str, int, str]:
    """Return name, parent and state (``R``, ``S``, ``Z`` ...) of a process; ("", 0, "") where there is none."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return "", 0, ""
    # The name stands in brackets and may hold brackets itself.
    state, parent = text.rpartition(")")[2].split()[:2]
    return text.partition("(")[2].rpartition(")")[0], int(parent), state


def find_stubs(server: int, proc: Path = Path("/proc")) -> dict[int, str]:
    """Return the state of each stub process of the tritonserver ``server``, by process id."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            name, parent, state = read_state(int(entry.name), proc)
            if parent == server and name == _STUB:
                found[int(entry.name)] = state
    return found


def model_of(pid: int, proc: Path = Path("/proc")) -> str:
    """Return the model of a living stub, from its command line; "" where it cannot be read."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return Path(words[1]).parent.parent.name if len(words) > 1 else ""


class StubWatch:
    """Watches the stubs of one tritonserver; not safe to share between threads."""

    def __init__(
        self,
        server: int,
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.monotonic,
        dead_after: float = 0.3,
    ) -> None:
        """Take the server's process id; ``dead_after``: seconds that a dead stub may wait for Triton to collect it."""
        self._dead_after = dead_after
        self._server, self._proc, self._clock = server, proc, clock
        self._models: dict[int, str] = {}
        self._next_scan = clock()
        self._since: dict[tuple[int, str], float] = {}

    def find_fault(self) -> str:
        """Return which stub does not work and why, or ""; call it a few times per second.

        A stub is at fault when it is dead, or stopped (SIGSTOP) while the server itself runs.
        """
        now = self._clock()
        if now >= self._next_scan:  # reading every process of a large machine five times per second would cost too much
            self._models = {pid: self._models.get(pid, "") for pid in find_stubs(self._server, self._proc)}
            self._next_scan = now + _SCAN_INTERVAL
        stubs = {
            pid: state
            for pid in self._models
            for _, parent, state in [read_state(pid, self._proc)]
            if parent == self._server
        }
        server_stopped = read_state(self._server, self._proc)[2] == "T"
        current: dict[tuple[int, str], float] = {}
        fault = ""
        for pid, state in stubs.items():
            if not self._models.get(pid):
                self._models[pid] = model_of(pid, self._proc)
            if state not in ("Z", "X", "T") or server_stopped:
                continue
            key = (pid, state)
            current[key] = self._since.get(key, now)
            if now - current[key] >= (_STOPPED_AFTER if state == "T" else self._dead_after):
                what = "is stopped" if state == "T" else "died"
                fault = f"the Python process {pid} of the model {self._models[pid] or '(unknown)'} {what}"
        self._since = current
        return fault
