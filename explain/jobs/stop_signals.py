"""Stops a long-running command on SIGTERM or Ctrl-C without taking a lock in a signal handler.

Python runs a signal handler in the main thread, between two bytecodes. If the main thread holds a lock at that moment,
a handler that takes the same lock blocks forever: ``threading.Event`` holds one in both ``wait`` and ``set``. Therefore
the handlers here do nothing. The interpreter writes the number of every signal to a pipe, and a thread reads it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Only replace the default action; the pipe carries the signal."""


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` once, in a thread of its own, when SIGTERM or SIGINT arrives inside the ``with`` block.

    Later signals are ignored. On leaving, the previous handlers are restored. Main thread only.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # a full pipe must not block the process; one byte is enough to stop it

    def call_on_signal() -> None:
        while numbers := os.read(reader, 256):
            if not set(_STOP_SIGNALS).isdisjoint(numbers):
                stop()
                return

    thread = threading.Thread(target=call_on_signal, name="stop-signals", daemon=True)
    thread.start()
    previous_pipe = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _ignore) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_pipe)
        os.close(writer)  # the thread reads the end of the pipe and returns
        thread.join()
        os.close(reader)
