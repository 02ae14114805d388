"""What a failed TLS handshake becomes: a typed error, retried on another replica only."""

import grpc
import pytest

from veridict.client import ClientConfig, DetectorClient, TlsError, UnavailableError

#: The beginning of gRPC's message.
_REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Tls handshake failed: "


@pytest.fixture
def judge(replica):
    """Return a function that judges on ``servers`` replicas which answer with a message; it returns error and calls."""

    def ask(message, servers=1, **settings):
        started = [replica() for _ in range(servers)]
        for one in started:
            one.behave = lambda number: (grpc.StatusCode.UNAVAILABLE, message)
        config = ClientConfig([one.address for one in started], backoff=0.0, **settings)
        with DetectorClient(config=config) as client, pytest.raises(UnavailableError) as caught:
            client.detect(b"x")
        return caught.value, [one.received for one in started]

    return ask


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (_REFUSED + "CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "has expired"),
        (_REFUSED + "CERTIFICATE_VERIFY_FAILED: certificate is not yet valid", "compare the clocks"),
        (_REFUSED + "CERTIFICATE_VERIFY_FAILED: self signed certificate", "--tls-root"),
        (_REFUSED + "WRONG_VERSION_NUMBER", "does not use TLS"),
        (_REFUSED + "TSI_DATA_CORRUPTED", "the TLS handshake failed"),
        ("Custom verification check failed: Hostname Verification Check failed.", "another host"),
    ],
)
def test_it_is_a_tls_error_that_says_why_and_is_not_repeated(judge, message, words):
    error, calls = judge(message)
    assert (type(error), error.code, calls) == (TlsError, "client.tls", [1])
    assert words in error.message


def test_it_is_retried_on_another_replica(judge):
    error, calls = judge(_REFUSED + "WRONG_VERSION_NUMBER", servers=2, attempts=4)
    assert (type(error), calls) == (TlsError, [1, 1])


@pytest.mark.parametrize("message", ["failed to connect to all addresses; Connection refused", "Socket closed"])
def test_no_connection_for_another_reason_is_none(judge, message):
    error, calls = judge(message, attempts=3)
    assert (type(error), error.code, calls) == (UnavailableError, "server.unavailable", [3])
    assert "TLS" not in error.message


def test_a_connection_that_is_closed_at_once_may_lack_a_certificate(judge):
    error, calls = judge("failed to connect to all addresses; last error: UNAVAILABLE: Socket closed", attempts=2)
    assert (type(error), calls) == (UnavailableError, [2])
    assert "client certificate" in error.message
