"""Explanations step aside, and what they start afterwards does too."""

import os
import subprocess
import sys

import pytest

CHILD = """
import os, threading
from veridict.deploy.serving import scheduling
if {refused}:
    def refuse(*arguments):
        raise PermissionError
    os.sched_setscheduler = refuse
how, seen = scheduling.yield_cores(), []
thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
print(how, seen[0] == os.SCHED_IDLE, os.nice(0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SCHED_IDLE is Linux's")
@pytest.mark.parametrize(("refused", "expected"), [(False, "idle True 0"), (True, "nice False 19")])
def test_a_thread_and_its_threads_yield_their_cores(refused, expected):
    # nice() of this process is what the child starts from
    found = subprocess.run(
        [sys.executable, "-c", CHILD.format(refused=refused)], capture_output=True, text=True, check=True
    )
    if os.nice(0) == 0:
        assert found.stdout.strip() == expected
    else:
        assert found.stdout.split()[0] == expected.split()[0]
