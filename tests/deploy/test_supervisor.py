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
        self.held = self.stopped = False
        self._end = script

    def __enter__(self):
        if isinstance(self._end, LaunchError):
            raise self._end
        return self

    def __exit__(self, *_):
        pass

    def hold(self):
        if isinstance(self._end, LaunchError):
            raise self._end
        self.held = True

    def release(self):
        self.held = False

    def alive(self):
        return self._end != "killed while it waited"

    def stop(self):
        self.stopped = True

    def wait(self, timeout=None):
        if isinstance(self._end, list):  # the statuses of several calls
            return self._end.pop(0)
        if isinstance(self._end, BaseException):
            raise self._end
        if isinstance(self._end, str):
            self.fault = self._end
            return -9
        return self._end


def supervise(scripts, restart=True, standby=False, pauses=(0.0, 0.001)):
    """Run servers that end as ``scripts`` say; return (how it ended, servers, lines of the log)."""
    started, ready, lines = [], [], []

    def start(settings, log):
        started.append(Server(scripts[len(started)], settings))
        return started[-1]

    supervisor = Supervisor(FREE, lines.append, ready.append, start, pauses=pauses, standby=standby)
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


def test_a_loaded_standby_follows_without_a_start_and_a_new_one_is_loaded():
    ended, started, ready, lines = supervise([1, "a stub died", KeyboardInterrupt(), 0], standby=True)
    assert isinstance(ended, KeyboardInterrupt)
    assert [server.held for server in started] == [False, False, False, True]
    assert ready == started[:3]
    assert started[3].stopped  # nobody needs it any more
    assert started[1].settings.grpc_port == 41
    assert [line for line in lines if "takes over" in line] == [
        "veridict: tritonserver ended by itself with status 1; the standby takes over",
        "veridict: a stub died; the standby takes over",
    ]


def test_a_standby_that_ended_is_replaced_and_not_used():
    scripts = [[None, 1], "killed while it waited", KeyboardInterrupt(), 0]
    ended, started, ready, lines = supervise(scripts, standby=True, pauses=(0.0, 60.0))
    assert isinstance(ended, KeyboardInterrupt)
    assert started[1].stopped
    assert ready == [started[0], started[2]]
    assert "veridict: no standby: its process ended; another one in 60 s" in lines
    assert "veridict: tritonserver ended by itself with status 1; starting again" in lines


def test_a_standby_that_cannot_start_is_given_up_and_the_server_runs_on(monkeypatch):
    monkeypatch.setattr("time.monotonic", iter(range(10_000)).__next__)
    no_room = [LaunchError("no room")] * MOST_FAILED_STARTS
    scripts = [[None] * 20 + [1], *no_room, KeyboardInterrupt(), 0]
    ended, _, ready, lines = supervise(scripts, standby=True)
    assert isinstance(ended, KeyboardInterrupt)
    assert len(ready) == 2
    assert lines.count("veridict: no standby: no room; given up") == 1


def test_without_restart_there_is_no_standby():
    ended, started, _, _ = supervise(["a stub died"], restart=False, standby=True)
    assert ended == "a stub died"
    assert len(started) == 1
