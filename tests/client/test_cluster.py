"""Both clients with several replicas over real gRPC: kills, drains, silence, hedging, age and names."""

import asyncio
import datetime
import socket
import time

import grpc
import pytest

from veridict.client import (
    AsyncDetectorClient,
    ClientConfig,
    DeadlineError,
    DetectorClient,
    InternalError,
    Tls,
    UnavailableError,
)


def sync_run(config, count, pause=0.0):
    with DetectorClient(config=config) as client:
        results = []
        for result in client.detect_many([b"x"] * count):
            results.append(result)
            time.sleep(pause)
        return results, client.replicas(), client.ready()


def async_run(config, count, pause=0.0):
    async def run():
        async with AsyncDetectorClient(config=config) as client:
            results = []
            async for result in client.detect_many([b"x"] * count):
                results.append(result)
                await asyncio.sleep(pause)
            return results, client.replicas(), await client.ready()

    return asyncio.run(run())


@pytest.fixture(params=[sync_run, async_run])
def run(request):
    return request.param


def errors(results):
    return [result.error for result in results if result.error]


def stopping(number):
    return grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model has stopped accepting new requests"


def test_the_load_is_even(run, replica):
    a, b, c = replica(), replica(), replica()
    results, states, ready = run(ClientConfig([a.address, b.address, c.address]), 60)
    assert errors(results) == []
    assert (a.answered, b.answered, c.answered) == (20, 20, 20)
    assert [state.sent for state in states] == [20, 20, 20]
    assert ready


def test_a_replica_killed_under_load_loses_no_request(run, replica, wire):
    a, b = replica(), replica()
    cable = wire(a.address)

    def die(number):
        if number >= 10:
            cable.cut()

    a.behave = die
    b.behave = lambda number: time.sleep(0.005)
    results, states, ready = run(ClientConfig(f"{cable.address},{b.address}", eject_seconds=30), 80)
    assert errors(results) == []
    # Nine were answered by a, but answers on their way when the line was cut are asked for again.
    assert 80 - 9 <= b.answered <= 80
    assert [state.ejected for state in states] == [True, False]
    assert ready


def test_a_replica_that_drains_loses_no_request(run, replica):
    a, b = replica(), replica()

    def leave(number):
        time.sleep(0.02)
        if number == 10:
            a.server.stop(10)  # refuses new calls at once and lets those in flight end

    a.behave = leave
    results, _, _ = run(ClientConfig([a.address, b.address]), 60)
    assert errors(results) == []
    assert a.answered + b.answered == 60
    assert a.answered >= 10


def test_a_replica_that_refuses_because_it_stops_is_left_alone_and_taken_back(run, replica):
    a, b = replica(), replica()

    def behave(number):
        return stopping(number) if number <= 4 else None

    a.behave = behave
    a.ready = False
    config = ClientConfig([a.address, b.address], eject_seconds=0.1, concurrency=1)
    results, _, _ = run(config, 60, pause=0.005)
    assert errors(results) == []
    assert a.received == 3
    a.ready = True
    results, states, _ = run(config, 100, pause=0.005)
    assert errors(results) == []
    assert a.received > 30
    assert not states[0].ejected


def internal(number):
    return grpc.StatusCode.INTERNAL, "in ensemble 'detector', [server.internal] preprocess failed"


def test_an_internal_error_is_retried_once_and_only_elsewhere(run, replica):
    a, b, c = replica(), replica(), replica()
    a.behave = internal
    results, states, _ = run(ClientConfig([a.address, b.address], concurrency=1), 20)
    assert errors(results) == []
    assert a.received == 3
    assert states[0].ejected
    b.behave = c.behave = internal
    received = a.received + b.received + c.received
    results, _, _ = run(ClientConfig([a.address, b.address, c.address]), 1)
    assert [type(error) for error in errors(results)] == [InternalError]
    assert a.received + b.received + c.received == received + 2


def test_a_full_replica_is_not_asked_again_while_another_one_has_room(run, replica):
    a, b = replica(), replica()
    a.behave = lambda number: (grpc.StatusCode.UNAVAILABLE, "in ensemble, [server.overloaded] full")
    results, states, _ = run(ClientConfig([a.address, b.address], backoff=0.001), 100)
    assert errors(results) == []
    assert b.answered == 100
    assert a.received < 60  # its throttle holds requests back
    assert not states[0].ejected


def test_a_hedge_gets_the_answer_and_the_slow_call_is_not_cancelled(run, replica):
    a, b = replica(), replica()
    a.behave = lambda number: time.sleep(0.6)
    started = time.monotonic()
    results, _, _ = run(ClientConfig([a.address, b.address], hedge_after=0.05, concurrency=1), 6)
    assert errors(results) == []
    assert time.monotonic() - started < 2.5  # closing waits for the slow calls
    assert (a.received, b.received) == (3, 6)
    assert (a.answered, a.cancelled) == (3, 0)


def test_a_hedge_helps_against_a_replica_that_fails_late(run, replica):
    a, b = replica(), replica()

    def fail(number):
        time.sleep(0.2)
        return stopping(number)

    a.behave = fail
    b.behave = lambda number: time.sleep(0.3)
    results, _, _ = run(ClientConfig([a.address, b.address], hedge_after=0.05, concurrency=1), 2)
    assert errors(results) == []


def test_without_hedging_a_hung_replica_costs_deadlines_until_it_is_ejected(run, replica):
    a, b = replica(), replica()
    a.behave = lambda number: time.sleep(1.5)
    config = ClientConfig([a.address, b.address], deadline=0.2, concurrency=1, eject_seconds=30)
    results, states, _ = run(config, 20)
    assert [type(error) for error in errors(results)] == [DeadlineError] * 3
    assert states[0].ejected


@pytest.mark.slow
def test_a_connection_that_falls_silent_is_given_up_and_its_requests_are_sent_elsewhere(run, replica, wire):
    a, b = replica(), replica()
    cable = wire(a.address)

    def vanish(number):
        cable.silent = number >= 3

    a.behave = vanish
    config = ClientConfig([cable.address, b.address], deadline=30, keepalive=1.0, eject_seconds=30)
    started = time.monotonic()
    results, _, _ = run(config, 30)
    assert errors(results) == []
    assert time.monotonic() - started < 12


def test_connections_are_replaced_without_losing_a_call(run, replica):
    a = replica()
    a.behave = lambda number: time.sleep(0.05)
    results, _, _ = run(ClientConfig(a.address, connection_age=0.1, concurrency=4), 40)
    assert errors(results) == []
    assert len(a.peers) >= 4
    assert a.cancelled == 0


def test_a_name_stands_for_all_its_addresses_and_follows_them(run, replica, monkeypatch):
    a = replica("127.0.0.1")
    b, c = replica("127.0.0.2", a.port), replica("127.0.0.3", a.port)
    hosts = ["127.0.0.1", "127.0.0.2"]

    def lookup(host, port, type):
        assert host == "triton-headless"
        return [(socket.AF_INET, type, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    def move(number):
        if number == 10:
            hosts[:] = ["127.0.0.2", "127.0.0.3"]

    a.behave = move
    config = ClientConfig(f"dns:///triton-headless:{a.port}", resolve_seconds=0.1, concurrency=1)
    results, states, _ = run(config, 60, pause=0.005)
    assert errors(results) == []
    assert a.answered < 40
    assert c.answered > 5
    assert sorted(state.address for state in states) == [b.address, c.address]


def test_an_unknown_name_is_an_unavailable_server(run):
    results, states, ready = run(ClientConfig("dns:///no-such-host.invalid:8001", attempts=2), 1)
    assert [type(error) for error in errors(results)] == [UnavailableError]
    assert (states, ready) == ([], False)


def test_ready_means_that_one_replica_is(run, replica):
    a, b = replica(), replica()
    a.ready = False
    config = ClientConfig([a.address, b.address])
    assert run(config, 0)[2]
    b.ready = False
    assert not run(config, 0)[2]


def self_signed(name):
    """Return key and certificate of a host, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


def test_a_certificate_names_the_host_and_not_its_address(run, replica, tmp_path):
    pytest.importorskip("cryptography")
    key, certificate = self_signed("localhost")
    (tmp_path / "ca.pem").write_bytes(certificate)
    a = replica("127.0.0.1:0", credentials=grpc.ssl_server_credentials([(key, certificate)]))
    config = ClientConfig(f"dns:///localhost:{a.port}", tls=Tls(tmp_path / "ca.pem"))
    results, _, _ = run(config, 2)
    assert errors(results) == []
