"""What a tritonserver leaves behind: stub processes and shared memory; and the guard that ends orphaned servers.

The guard is a small process of its own (``python -m veridict.deploy.leftovers``), started beside every server. When the
process that started the server dies without stopping it (SIGKILL, or a SIGTERM that it does not handle), the guard ends
the server and removes what it left. PR_SET_PDEATHSIG would not do: it fires when the *thread* that started the server
ends, and leaves stubs and shared memory behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - shm_open's folder
#: Seconds between two looks at the parent process.
_INTERVAL = 0.5


def remove_leftovers(server: int, prefix: str, shared_memory: Path = _SHARED_MEMORY) -> None:
    """Kill the process group that ``server`` leads, and remove its shared-memory regions, which begin with ``prefix``.

    A server that is stopped in order can leave stubs; one that died or was killed leaves its regions too.
    """
    try:
        os.killpg(server, signal.SIGKILL)
    except ProcessLookupError:
        pass
    for pattern in (f"{prefix}*", f"veridict-slots-{server}-*"):
        for region in shared_memory.glob(pattern):
            region.unlink(missing_ok=True)


def start_guard(server: int, prefix: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start the guard of ``server`` and return it; whoever stops the server in order kills the guard afterwards."""
    arguments = [str(os.getpid()), str(server), prefix, str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal must not end it before the server
    )


def guard(parent: int, server: int, prefix: str, folder: Path) -> None:
    """Wait until this process has another parent than ``parent``, then remove the server and its ``folder``."""
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
    remove_leftovers(server, prefix)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
