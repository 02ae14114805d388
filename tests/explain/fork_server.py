"""Worker processes for the delivery tests: imports once, then forks a real worker per line of standard input.

The methods that sleep, fail or die exist only in this process and in the test's own, not in the product.
"""

import json
import os
import signal
import sys
import threading
import time
import types

from veridict.explain.methods import METHODS, Method
from veridict.explain.methods.local_sharpness import attribute as sharpness

SLEEP = 0.35
#: Name of the environment variable that makes a worker receive SIGTERM at the worst moment.
SIGTERM_INSIDE_WAIT = "TEST_SIGTERM_INSIDE_WAIT"


def slow(subject, models, budget, cancellation):
    ends = time.monotonic() + (5.0 if budget.samples == 5000 else SLEEP)
    while time.monotonic() < ends:
        cancellation.check()
        time.sleep(0.01)
    return named("slow", subject, models, budget, cancellation)


def named(name, *arguments):
    result = sharpness(*arguments)
    return type(result)(**{**vars(result), "method": name})


def poison(*arguments):
    raise ValueError("no good")


def deadly(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def register():
    """Register the test methods in this process; return their names."""
    for function in (slow, poison, deadly):
        module = types.ModuleType(f"test_method_{function.__name__}")
        module.attribute = function
        sys.modules[module.__name__] = module
        name = function.__name__
        METHODS[name] = Method(name, "forensics", module.__name__, name.capitalize(), "A test method.")
    return ["slow", "poison", "deadly"]


def send_sigterm_inside_wait():
    """Let SIGTERM arrive whenever the worker's main loop is inside ``Event.wait`` and holds the lock of the event."""
    original = threading.Event.wait

    def wait(event, timeout=None):
        caller = sys._getframe(1).f_globals["__name__"]
        if threading.current_thread() is threading.main_thread() and caller == "veridict.explain.jobs.worker":
            with event._cond:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)  # Python runs the signal handler here, in this thread
        return original(event, timeout)

    threading.Event.wait = wait


def main():
    import torch  # noqa: F401 - takes a second, which the forked workers save

    from veridict.explain.jobs import cli_worker
    from veridict.explain.reports import render  # noqa: F401

    register()
    import argparse

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    cli_worker.add_arguments(parser)
    print("open", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order.get("environment", {}))
        if SIGTERM_INSIDE_WAIT in os.environ:
            send_sigterm_inside_wait()
        os._exit(cli_worker.run(parser.parse_args(order["arguments"])))


if __name__ == "__main__":
    main()
