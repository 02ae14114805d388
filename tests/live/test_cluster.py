"""Two real servers behind one client: even load, one killed, one drained, and both behind a real proxy."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from veridict.client import AsyncDetectorClient, ClientConfig, DetectorClient
from veridict.deploy.launcher import ServerSettings, TritonServer

pytestmark = [pytest.mark.live, pytest.mark.slow]

#: So many that a server is killed or drained while most have not been sent: the servers answer fast.
SENT = 48
AT_ONCE = 8


@pytest.fixture(scope="module")
def first(small_repository):
    """Yield the server that stays."""
    with TritonServer(ServerSettings(small_repository, grpc_port=0, http_port=0, metrics_port=0)) as server:
        yield server


@pytest.fixture
def second(small_repository):
    """Yield a server of the test's own, which may be killed."""
    with TritonServer(ServerSettings(small_repository, grpc_port=0, http_port=0, metrics_port=0)) as server:
        yield server


@pytest.fixture
def data(encode, cat):
    return encode(cat[::4, ::4].copy())


def configured(*addresses):
    return ClientConfig(addresses, deadline=120.0, concurrency=AT_ONCE, keepalive=60.0)


def verdicts(server):
    """Return how many verdicts a server has given, by its own metric."""
    time.sleep(1.0)  # published twice a second
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("veridict_verdicts_total{"))


def judge(client, data, count, after=0, then=None):
    """Judge an image ``count`` times and call ``then`` after some answers; return the errors."""
    errors = []
    for number, result in enumerate(client.detect_many([data] * count), 1):
        if result.error:
            errors.append(result.error)
        if number == after:
            then()
    return errors


async def judge_async(config, data, count, after, then):
    errors = []
    async with AsyncDetectorClient(config=config) as client:
        number = 0
        async for result in client.detect_many([data] * count):
            number += 1
            if result.error:
                errors.append(result.error)
            if number == after:
                then()
        return errors, client.replicas()


def test_the_load_is_even_and_a_killed_server_loses_no_request(first, second, data):
    with DetectorClient(config=configured(first.url, second.url)) as client:
        before = verdicts(first), verdicts(second)
        assert judge(client, data, SENT) == []
        given = verdicts(first) - before[0], verdicts(second) - before[1]
        assert sum(given) == SENT
        assert abs(given[0] - given[1]) <= 0.1 * SENT / 2
        assert judge(client, data, SENT, SENT // 4, lambda: os.kill(second.pid, signal.SIGKILL)) == []
        assert [state.ejected for state in client.replicas()] == [False, True]
        assert client.ready(10)


def test_the_asyncio_client_loses_none_when_a_server_is_killed(first, second, data):
    config = configured(first.url, second.url)
    kill = lambda: os.kill(second.pid, signal.SIGKILL)  # noqa: E731
    errors, states = asyncio.run(judge_async(config, data, SENT, SENT // 4, kill))
    assert errors == []
    assert [state.ejected for state in states] == [False, True]


def test_a_drained_server_loses_no_request_and_is_not_ready_first(first, second, data):
    seen = []

    def watch():
        while second.alive():
            try:
                url = f"http://127.0.0.1:{second.ports['http']}/v2/health/ready"
                with urllib.request.urlopen(url, timeout=5) as response:
                    seen.append(response.status)
            except urllib.error.HTTPError as error:
                seen.append(error.code)
            except OSError:
                seen.append(0)
            time.sleep(0.02)

    watching = threading.Thread(target=watch)

    def drain():
        os.kill(second.pid, signal.SIGTERM)
        watching.start()

    with DetectorClient(config=configured(first.url, second.url)) as client:
        assert judge(client, data, SENT, SENT // 4, drain) == []
        assert second.wait() == 0
        watching.join()
    assert 200 not in seen[1:]  # the first look may come before the server has seen the signal


HAPROXY = r"""
defaults
  mode http
  timeout connect 10s
  timeout check 10s
  timeout client 120s
  timeout server 120s
frontend grpc
  bind 127.0.0.1:{port} proto h2
  default_backend triton
backend triton
  balance roundrobin
  option redispatch 1
  option tcp-check
  tcp-check connect
  tcp-check send GET\ /v2/health/ready\ HTTP/1.0\r\n\r\n
  tcp-check expect string 200\ OK
  default-server proto h2 check inter 500ms fall 2 rise 1
  server one {one} port {one_health}
  server two {two} port {two_health}
"""


@pytest.fixture
def proxy(first, second, tmp_path):
    """Yield the address of an HAProxy that balances gRPC calls over both servers."""
    binary = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
    if not binary:
        pytest.skip("haproxy is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    health = {"one_health": first.ports["http"], "two_health": second.ports["http"]}
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(port=port, one=first.url, two=second.url, **health))
    with subprocess.Popen([binary, "-f", tmp_path / "haproxy.cfg", "-db"]) as process:
        yield f"127.0.0.1:{port}"
        process.terminate()


def test_behind_a_proxy_the_load_is_even_and_a_killed_server_loses_no_request(first, second, proxy, data):
    config = ClientConfig(proxy, deadline=120.0, concurrency=AT_ONCE, connection_age=2.0, backoff=0.5)
    with DetectorClient(config=config) as client:
        ends = time.monotonic() + 20
        while not client.ready(5) and time.monotonic() < ends:
            time.sleep(0.2)
        before = verdicts(first), verdicts(second)
        assert judge(client, data, SENT) == []
        given = verdicts(first) - before[0], verdicts(second) - before[1]
        assert abs(given[0] - given[1]) <= 0.1 * SENT / 2
        assert judge(client, data, SENT, SENT // 4, lambda: os.kill(second.pid, signal.SIGKILL)) == []
