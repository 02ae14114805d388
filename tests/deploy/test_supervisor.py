"""The supervisor restarts a server that ended, on the same ports, with growing pauses; it gives up in the end."""

import pytest

from veridict.deploy.launcher import LaunchError, ServerSettings
from veridict.deploy.supervisor import MOST_FAILED_STARTS, Supervisor

FREE = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)


class Server:
    """Stands for a TritonServer: runs until its script says how it ends."""

    def __init__(self, script, settings):
        self.settings, self.fault = settings, ""
        self.ports = {"grpc": settings.grpc_port or 41, "http": settings.http_port or 42}
        self.ports["metrics"] = settings.metrics_port or 43
        self._end = script

    def __enter__(self):
        if isinstance(self._end, LaunchError):
            raise self._end
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        if isinstance(self._end, BaseException):
            raise self._end
        if isinstance(self._end, str):
            self.fault = self._end
            return -9
        return self._end


def supervise(scripts, restart=True):
    """Run servers that end as ``scripts`` say; return (how it ended, servers, lines of the log)."""
    started, ready, lines = [], [], []

    def start(settings, log):
        started.append(Server(scripts[len(started)], settings))
        return started[-1]

    supervisor = Supervisor(FREE, lines.append, ready.append, start, pauses=(0.0, 0.001))
    try:
        ended = supervisor.run(restart)
    except (LaunchError, KeyboardInterrupt) as error:
        ended = error
    return ended, started, ready, lines


def test_a_server_that_ends_or_is_faulty_starts_again_on_the_same_ports():
    ended, started, ready, lines = supervise([1, "a stub died", KeyboardInterrupt()])
    assert isinstance(ended, KeyboardInterrupt)
    assert len(started) == len(ready) == 3
    assert (started[0].settings.grpc_port, started[1].settings.grpc_port) == (0, 41)
    assert started[2].settings.metrics_port == 43
    assert lines == [
        "veridict: tritonserver ended by itself with status 1; starting again",
        "veridict: a stub died; starting again in 0.001 s",
    ]


def test_without_restart_the_reason_is_returned():
    assert supervise(["a stub died"], restart=False)[0] == "a stub died"


def test_a_first_start_that_fails_is_final():
    ended, started, ready, _ = supervise([LaunchError("no")])
    assert str(ended) == "no"
    assert len(started) == 1
    assert not ready


def test_restarts_that_keep_failing_are_given_up():
    ended, started, ready, _ = supervise([1] + [LaunchError("port taken")] * 99)
    assert str(ended) == "port taken"
    assert len(started) == 1 + MOST_FAILED_STARTS
    assert len(ready) == 1


def test_a_failed_restart_is_tried_again():
    ended, _, ready, _ = supervise([1, LaunchError("slow"), 2, KeyboardInterrupt()])
    assert isinstance(ended, KeyboardInterrupt)
    assert len(ready) == 3


def test_unexpected_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        supervise([ZeroDivisionError()])
