"""Connections that do nothing, clients that vanish, and clients of other makers that cancel their calls."""

import random
import resource
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from .raw_requests import encode_strings, make_request, open_stub, outcome
from .service import assert_nothing_is_left, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

IDLE = 2000
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
#: Opens connections with a request on each, says so, and waits to be killed.
CLIENT = """
import sys, time
from tritonclient.grpc import service_pb2
import grpc
request = service_pb2.ModelInferRequest.FromString(open(sys.argv[2], "rb").read())
calls = []
for number in range(10):
    channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.use_local_subchannel_pool", 1)])
    path = "/inference.GRPCInferenceService/ModelInfer"
    call = channel.unary_unary(path, service_pb2.ModelInferRequest.SerializeToString)
    calls.append(call.future(request, wait_for_ready=True))
    grpc.channel_ready_future(channel).result(60)
print("sent", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def many_handles():
    """Let this process open thousands of connections; tritonserver inherited what was allowed when it started."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < IDLE + 500:
        pytest.skip(f"this user may open {before[1]} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize("first_bytes", [b"", HTTP2], ids=["silent", "HTTP/2 without a request"])
def test_thousands_of_idle_connections_take_nothing_from_others(service, photo, many_handles, first_bytes):
    soft, _ = service.server.rlimit(resource.RLIMIT_NOFILE)
    count = min(IDLE, soft - 300)
    before, handles = service.footprint(), service.server.num_fds()
    connections = []
    try:
        for _ in range(count):
            connections.append(connect(service.url))
            connections[-1].sendall(first_bytes)
        wait_until(lambda: service.server.num_fds() >= handles + count)
        assert service.judge(photo)
        with urllib.request.urlopen(service.health_url, timeout=30) as answer:
            assert answer.status == 200
    finally:
        for connection in connections:
            connection.close()
    assert_nothing_is_left(service, before)


def test_bytes_that_are_no_grpc_close_their_connection_only(service, photo):
    before = service.footprint()
    noise = random.Random(1).randbytes(20_000)
    for data in (b"GET / HTTP/1.1\r\n\r\n", noise, b"\x16\x03\x01" + noise, HTTP2 + noise):
        with connect(service.url) as connection:
            try:
                connection.sendall(data)
                connection.recv(100)
            except OSError:  # reset by the server
                pass
    assert service.judge(photo)
    assert_nothing_is_left(service, before)


def served_by(service):
    return service.server.pid, service.announced


def test_calls_cancelled_by_foreign_clients_cost_at_most_a_takeover(service, photo):
    before, first = service.footprint(), served_by(service)
    rng = random.Random(2)
    request = make_request([encode_strings(photo)])
    for _ in range(20):
        with open_stub(service.url) as stub:
            for _ in range(5):
                call = stub.ModelInfer.future(request)
                time.sleep(rng.random() * 0.1)
                call.cancel()
    assert_served_again(service, photo, before, first)


def test_clients_killed_in_the_middle_of_their_calls_cost_at_most_a_takeover(service, photo, tmp_path):
    before, first = service.footprint(), served_by(service)
    path = tmp_path / "request"
    path.write_bytes(make_request([encode_strings(photo)]).SerializeToString())
    for wait in (0.0, 0.1):
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, service.url, str(path)], stdout=subprocess.PIPE, text=True
        ) as client:
            assert client.stdout.readline() == "sent\n"
            time.sleep(wait)
            client.kill()
    assert_served_again(service, photo, before, first)


def assert_served_again(service, photo, before, first):
    """The service answers, whether or not Triton crashed; a crash costs a takeover and leaves nothing."""
    request = make_request([encode_strings(photo)])

    def answered():
        with open_stub(service.url) as stub:  # what was cancelled still takes its place until its deadline
            return outcome(stub, request, 30.0)[0] == "OK"

    began = time.monotonic()
    wait_until(answered, 180.0)
    print(f"first answer {time.monotonic() - began:.2f} s after the last call was cancelled")
    print(f"takeovers: {service.announced - first[1]}")
    assert (service.server.pid != first[0]) == (service.announced != first[1])
    service.wait_for_standby()
    assert_nothing_is_left(service, before)
