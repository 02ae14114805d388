"""Messages about addresses and ports name the true cause: only EADDRINUSE means that a port is taken."""

import errno
import os
import socket

import pytest

from veridict.deploy.ports import AddressError, bind_problem, check_host, free_ports

FREE = {"grpc": 0, "http": 0, "metrics": 0}


def test_free_ports_differ():
    assert len(set(free_ports("127.0.0.1", FREE).values())) == 3
    assert set(free_ports("localhost", FREE)) == set(FREE)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("::1", "IPv6 is not supported"),
        ("::", "IPv6 is not supported"),
        ("fe80::1%eth0", "IPv6 is not supported"),
        ("[::1]", "IPv6 is not supported"),
        ("nosuch.invalid", "cannot be resolved"),
        ("", "cannot be resolved"),
        ("a" * 300, "cannot be"),
        ("192.0.2.7", "no network interface"),  # TEST-NET-1, which no machine has
        ("300.1.1.1", "cannot be resolved"),
    ],
)
def test_an_address_that_cannot_be_used_is_not_called_a_taken_port(host, message):
    with pytest.raises(AddressError, match=message) as caught:
        free_ports(host, FREE)
    assert "taken" not in str(caught.value)


def test_a_taken_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=rf"--http-port: port {port} on 127\.0\.0\.1 is taken"):
            free_ports("127.0.0.1", FREE | {"http": port})


@pytest.mark.parametrize("port", [70000, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(AddressError, match="not in the range 0 to 65535"):
        free_ports("127.0.0.1", FREE | {"grpc": port})


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOBUFS])
def test_other_errors_keep_their_reason(number):
    sentence = bind_problem(OSError(number, os.strerror(number)), "127.0.0.1", 80)
    assert os.strerror(number) in sentence
    assert "taken" not in sentence


def test_check_host_accepts_addresses_and_names():
    for host in ("127.0.0.1", "0.0.0.0", "localhost"):
        check_host(host)
