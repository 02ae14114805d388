"""A second signal does not interrupt the clean-up that the first one started."""

import signal
import subprocess
import sys

SCRIPT = """
import sys, time
from veridict.deploy.interrupts import interrupt_once
try:
    with interrupt_once():
        try:
            print("begun", flush=True)
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep(1.0)
            print("cleaned", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_clean_up_is_finished_whatever_signals_follow():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning\n"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert out == "cleaned\nstopped\n"
    assert process.returncode == 0
