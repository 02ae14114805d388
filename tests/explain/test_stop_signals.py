"""Stopping by signal: no lock is taken in a signal handler, and the previous handlers come back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from veridict.explain.jobs.stop_signals import stop_on_signals

# In a process of its own: with an Event set in the handler, this waits forever.
INSIDE_THE_LOCK = """
import os, signal, threading, time
from veridict.explain.jobs.stop_signals import stop_on_signals

stopping = threading.Event()
with stop_on_signals(stopping.set):
    with stopping._cond:  # the lock that Event.wait and Event.set hold
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)  # Python runs the signal handler here, in this thread
    assert stopping.wait(10)
"""


def test_a_signal_inside_the_lock_of_an_event_does_not_deadlock():
    subprocess.run([sys.executable, "-c", INSIDE_THE_LOCK], check=True, timeout=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_called_once_in_another_thread(number):
    calls, called = [], threading.Event()

    def stop():
        calls.append(threading.current_thread())
        called.set()

    with stop_on_signals(stop):
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert called.wait(10)
    assert len(calls) == 1
    assert calls[0] is not threading.main_thread()


def test_other_signals_do_not_stop_and_the_handlers_come_back():
    def count(number, frame):
        seen.append(number)

    seen, stops = [], []
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    previous = signal.signal(signal.SIGUSR1, count)
    threads = threading.active_count()
    try:
        with stop_on_signals(lambda: stops.append(1)):
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert (seen, stops) == ([signal.SIGUSR1], [])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads
