"""Ends the tritonserver around a Python model when another model's process died: then it cannot give verdicts.

``veridict serve`` sees that itself, and sooner. This is for a tritonserver that was started in another way, for example
in a container: it becomes unready and ends, so that the orchestrator replaces it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import triton_python_backend_utils as pb_utils

from ..stub_processes import StubWatch, read_state

_INTERVAL, _DEAD_AFTER = 0.5, 1.0


def watch_server() -> None:
    """Watch the other Python processes of the tritonserver that is this process's parent, in a thread."""
    server = os.getppid()
    if read_state(server)[0] == "tritonserver":
        threading.Thread(target=_watch, args=(server,), name="server-watch", daemon=True).start()


def _watch(server: int) -> None:
    watch = StubWatch(server, dead_after=_DEAD_AFTER)
    while os.getppid() == server:
        if fault := watch.find_fault():
            pb_utils.Logger.log_error(f"{fault}; the server is stopped, since it cannot answer")
            os.kill(server, signal.SIGTERM)
            return
        time.sleep(_INTERVAL)
