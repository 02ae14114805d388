"""What KEDA's redis-streams scaler reads (XINFO GROUPS lag, XPENDING) is what waits and runs; Redis 7 or later."""

import re
import shutil
import subprocess
import time

import pytest
import redis

from veridict.explain.jobs.job import Job
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.jobs.streams import GROUP

OLDEST = 7


@pytest.fixture
def server(tmp_path):
    """Start redis-server on a socket; yield its URL."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server); the embedded one is 6.2")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.search(r"v=(\d+)", version)[1]) < OLDEST:
        pytest.skip(f"redis-server is older than {OLDEST}")
    socket = tmp_path / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
        try:
            ends = time.monotonic() + 20
            while not socket.exists():
                assert time.monotonic() < ends, "redis-server did not start"
                time.sleep(0.05)
            yield f"unix://{socket}"
        finally:
            process.terminate()


def scaler_reads(url, stream):
    """Return (lag, pending) as KEDA reads them."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        [group] = [g for g in client.xinfo_groups(stream) if g["name"] == GROUP]
        return group["lag"], client.xpending(stream, GROUP)["pending"]


def test_the_scaler_sees_waiting_and_running_jobs(server):
    queue = JobQueue(QueueSettings(), server, "worker-1")
    stream = queue.streams["live"].name
    for number in range(5):
        queue.submit(Job.create(f"{number:064x}", "ela", "v1", "live"))
    with redis.Redis.from_url(server, decode_responses=True) as client:
        assert client.xinfo_groups(stream) == []  # no worker has run: the scaler reports an error, not 0
    queue.register_worker({"files": "v1"})
    assert scaler_reads(server, stream) == (5, 0)
    taken = [queue.take() for _ in range(3)]
    assert scaler_reads(server, stream) == (2, 3)
    for delivery in taken:
        queue.start(delivery)
        queue.finish(delivery)
    assert scaler_reads(server, stream) == (2, 0)
    assert queue.streams["live"].waiting() == (2, 0)
    for _ in range(2):
        delivery = queue.take()
        queue.start(delivery)
        queue.finish(delivery)
    assert scaler_reads(server, stream) == (0, 0)  # only now may the last worker go
    queue.close()
