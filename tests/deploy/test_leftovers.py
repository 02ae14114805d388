"""A server does not outlive the process that started it, and leaves no process, no shared memory and no folder."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from veridict.deploy.leftovers import remove_leftovers

#: Starts a stand-in for tritonserver with a child of its own, and its guard, in a thread that ends; then waits.
PARENT = """
import subprocess, sys, threading, time
from pathlib import Path
from veridict.deploy.leftovers import start_guard

def start():
    server = subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300; wait"], start_new_session=True)
    start_guard(server.pid, sys.argv[1], Path(sys.argv[2]))
    print(server.pid, flush=True)

thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(300)
"""


def group_members(leader):
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(leader) and "Z" not in line.split()[1]]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_when_its_parent_is_killed(number, tmp_path):
    prefix = f"veridict-test-{uuid.uuid4().hex}-"
    region = Path("/dev/shm") / f"{prefix}region"
    region.write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, prefix, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    time.sleep(1.0)  # the thread that started the server has ended, and that alone must not end the server
    assert group_members(server)
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    ends = time.monotonic() + 20
    while (group_members(server) or region.exists() or folder.exists()) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not group_members(server)
    assert not region.exists()
    assert not folder.exists()


def test_only_the_servers_own_regions_are_removed(tmp_path):
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as server:
        for name in ("veridict-1-2-a", "veridict-1-22-a", f"veridict-slots-{server.pid}-1", "veridict-slots-1-1"):
            (tmp_path / name).write_bytes(b"")
        remove_leftovers(server.pid, "veridict-1-2-", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"veridict-1-22-a", "veridict-slots-1-1"}
    remove_leftovers(server.pid, "veridict-1-2-", tmp_path)  # once more: there is nothing to do
