"""How explanations step aside for verdicts on shared cores."""

from __future__ import annotations

import os

#: The lowest niceness: what remains where the system has no idle scheduling.
_LOWEST = 19


def yield_cores() -> str:
    """Let this thread, and those it starts from now on, run only on cores that nothing else wants.

    Returns "idle" on Linux (SCHED_IDLE, sched(7)): any other thread that wakes takes the core from such a thread at
    once, where a nice one keeps it to the end of its time slice. Elsewhere, and where the system refuses, the niceness
    becomes 19, and "nice" is returned. Threads that run already keep their priority. Neither reaches across control
    groups: between containers or systemd units it is their CPU weight that counts (``CPUWeight=idle``).
    """
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a sandbox may forbid the call
            pass
        else:
            return "idle"
    os.nice(_LOWEST)
    return "nice"
