"""Addresses from lists and DNS, and the age of connections; a clock that is moved."""

import socket

import pytest

from veridict.client import ClientConfig, DetectorClient, Tls
from veridict.client.addresses import Addresses, Endpoint
from veridict.client.connections import Connections

from .test_balancer import Clock


def answer(*hosts, family=socket.AF_INET):
    return [(family, socket.SOCK_STREAM, 6, "", (host, 8001)) for host in hosts]


class Dns:
    """Answers lookups with ``hosts``; None: the name is not found."""

    def __init__(self, *hosts):
        self.hosts, self.asked = answer(*hosts), []

    def __call__(self, host, port, type):
        self.asked.append((host, port))
        if self.hosts is None:
            raise socket.gaierror("no such name")
        return self.hosts


def test_a_list_and_a_string_are_the_same():
    for url in ("a:1, b:2", ["a:1", "b:2"], ("a:1", "b:2")):
        config = ClientConfig(url)
        assert config.url == "a:1,b:2"
        assert config.channel_arguments() == {"url": "a:1"}
    with DetectorClient(["127.0.0.1:1", "127.0.0.1:2"], config=ClientConfig(deadline=7)) as client:
        assert client.config.deadline == 7
        assert [state.address for state in client.replicas()] == ["127.0.0.1:1", "127.0.0.1:2"]


@pytest.mark.parametrize(
    "bad", ["", "a:1,,b:2", [], "http://a:1", "dns:///a", "dns:///:1", "dns://a:1", "a:1,http://b:1"]
)
def test_bad_addresses_are_refused(bad):
    with pytest.raises(ValueError, match="url"):
        ClientConfig(bad)


@pytest.mark.parametrize("bad", [{"eject_after": 0}, {"hedge_after": -1}, {"keepalive": -1}, {"resolve_seconds": 0}])
def test_settings_for_replicas_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ClientConfig(**bad)


def test_fixed_addresses_need_no_lookup():
    addresses = Addresses("a:1,b:2,a:1", 30, Clock(), Dns())
    assert addresses.known == [Endpoint("a:1"), Endpoint("b:2")]
    assert not addresses.due()


def test_a_name_is_looked_up_again_and_again():
    clock, dns = Clock(), Dns("10.0.0.2", "10.0.0.1", "10.0.0.2")
    addresses = Addresses("dns:///triton:8001", 30, clock, dns)
    assert addresses.known == []
    assert addresses.due()
    assert addresses.look_up() == [Endpoint(f"10.0.0.{i}:8001", "triton:8001") for i in (1, 2)]
    assert not addresses.due()
    clock.now += 30
    dns.hosts = answer("10.0.0.3")
    assert addresses.due()
    assert addresses.look_up() == [Endpoint("10.0.0.3:8001", "triton:8001")]
    assert dns.asked == [("triton", 8001)] * 2


def test_a_failure_brings_the_next_lookup_forward_but_not_more_than_one_a_second():
    clock = Clock()
    addresses = Addresses("dns:///triton:8001", 30, clock, Dns("10.0.0.1"))
    assert addresses.due()
    addresses.hasten()
    clock.now += 0.9
    assert not addresses.due()
    clock.now += 0.2
    assert addresses.due()


def test_a_failed_lookup_keeps_the_addresses():
    clock, dns = Clock(), Dns("10.0.0.1")
    addresses = Addresses("b:2,dns:///triton:8001", 30, clock, dns)
    found = addresses.look_up()
    dns.hosts = None
    assert addresses.look_up() == found == [Endpoint("b:2"), Endpoint("10.0.0.1:8001", "triton:8001")]
    clock.now += 1.0
    assert addresses.due()


def test_a_dual_stack_replica_counts_once():
    dns = Dns()
    dns.hosts = answer("fd00::1", "fd00::2", family=socket.AF_INET6) + answer("10.0.0.1", "10.0.0.2")
    found = Addresses("dns:///triton:8001", 30, Clock(), dns).look_up()
    assert [endpoint.address for endpoint in found] == ["[fd00::1]:8001", "[fd00::2]:8001"]


def test_the_host_name_goes_into_tls_and_the_authority():
    endpoint = Endpoint("10.0.0.1:8001", "triton.example:8001")
    arguments = ClientConfig("dns:///triton.example:8001", tls=Tls(), keepalive=0).replica_arguments(endpoint)
    options = dict(arguments["channel_args"])
    assert arguments["url"] == "10.0.0.1:8001"
    assert options["grpc.default_authority"] == "triton.example:8001"
    assert options["grpc.ssl_target_name_override"] == "triton.example"
    assert not any("keepalive" in name for name in options)


def test_old_channels_are_replaced_and_closed_after_their_last_call():
    clock, opened = Clock(), []

    def open_channel():
        opened.append(f"channel {len(opened)}")
        return opened[-1]

    connections = Connections(open_channel, 60, clock, lambda: 0.5)
    first = connections.take()
    clock.now += 59
    assert connections.take() == first
    clock.now += 1
    second = connections.take()
    assert (second, len(opened)) == ("channel 1", 2)
    connections.give_back(first)
    assert connections.retired() == []  # a call is in flight on it
    connections.give_back(first)
    assert connections.retired() == [first]
    assert connections.retired() == []
    connections.give_back(second)
    assert connections.wait(0) == [second]


def test_without_an_age_a_channel_stays():
    clock = Clock()
    connections = Connections(object, 0, clock)
    first = connections.take()
    clock.now += 1e6
    assert connections.take() is first
