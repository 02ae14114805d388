"""A real server that loses a Python process: not ready within five seconds, and ready again by itself."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from veridict.client import DetectorClient
from veridict.deploy.stub_processes import find_stubs, model_of

pytestmark = [pytest.mark.slow, pytest.mark.live]


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in listed.split()]


def server_of(pid):
    """Return the tritonserver among the children of ``veridict serve``."""
    return next(p for p in children(pid) if Path(f"/proc/{p}/comm").read_text().strip() == "tritonserver")


@contextmanager
def serving(*options):
    """Run ``veridict serve`` behind a proxy that is not there; yield the process and the server's address."""
    command = [sys.executable, "-m", "veridict.deploy.command", "serve", *options]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    environment.pop("no_proxy", None)
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().removeprefix("ready: gRPC ").partition(",")[0]
        finally:
            process.terminate()


def kill_stub(server, model):
    os.kill(next(pid for pid in find_stubs(server) if model_of(pid) == model), signal.SIGKILL)


def wait_for(condition, seconds):
    ends = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < ends:
        time.sleep(0.05)
    return met


def test_a_server_that_lost_a_process_is_not_ready_and_is_replaced(small_repository):
    # With a standby: tests/live/faults/test_killed_processes.py.
    with (
        serving("--repository", str(small_repository), "--no-standby") as (process, url),
        DetectorClient(url) as client,
    ):
        assert client.ready()
        server = server_of(process.pid)
        kill_stub(server, "preprocess")
        assert wait_for(lambda: not client.ready(1.0), 5.0)
        assert wait_for(lambda: client.ready(1.0), 120.0)
        assert server_of(process.pid) != server
        assert not Path(f"/proc/{server}").exists()


def test_without_restart_the_command_ends_with_status_1(small_repository):
    with serving("--repository", str(small_repository), "--no-restart") as (process, _):
        kill_stub(server_of(process.pid), "fusion")
        assert process.wait(30) == 1
