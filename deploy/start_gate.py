"""The gate in front of a warm standby: a server that has loaded its models, and listens only once the gate is open.

Triton binds its ports when every model is loaded. So the model ``fusion`` of a standby waits at the end of its loading
until the launcher opens the gate, which it does when the server before it is gone. The gate is a lock on a file
(flock(2)): when the launcher dies, the lock goes with it, and no standby waits forever.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

#: The environment variable that tells a standby's Python models where the gate is.
GATE_VARIABLE = "VERIDICT_START_GATE"


class StartGate:
    """The launcher's side: closed until :meth:`open`, or until this process ends."""

    def __init__(self, folder: Path) -> None:
        """Make a closed gate in a folder."""
        path = folder / "start-gate"
        self._file = path.open("w")  # not inherited by child processes
        fcntl.flock(self._file, fcntl.LOCK_EX)
        #: What the standby's environment needs.
        self.environment = {GATE_VARIABLE: str(path)}

    def open(self) -> None:
        """Let the standby listen; idempotent."""
        self._file.close()


def wait_for_gate() -> None:
    """Return once the gate of this server is open; at once where the server has none."""
    path = os.environ.get(GATE_VARIABLE)
    if not path:
        return
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    except FileNotFoundError:  # the launcher is gone, and its guard removes this server
        pass
