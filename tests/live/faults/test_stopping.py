"""SIGTERM with 64 requests in flight: each is answered or cleanly refused, and nothing is left."""

import re
import signal
import time
import urllib.request
from collections import Counter

import grpc
import pytest

from .raw_requests import encode_strings, make_request, open_stub
from .service import Service, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]

SENT = 64


def metric(service, pattern):
    """Return the sum of the metrics whose name and labels match."""
    with urllib.request.urlopen(service.metrics_url, timeout=30) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{pattern}\S* (\S+)$", text, flags=re.MULTILINE))


def status_of(call):
    """Return the gRPC status of a call that ended, and the code in brackets of its message."""
    try:
        call.result(timeout=60)
    except grpc.RpcError as error:
        code = re.search(r"\[[a-z]+\.[a-z_]+\]", error.details())
        return error.code().name, code[0] if code else error.details()
    return "OK", ""


def test_sigterm_with_64_requests_in_flight_answers_or_refuses_each_and_leaves_nothing(photo, small_repository):
    options = ("--repository", str(small_repository), "--no-standby")
    with Service(*options) as service, open_stub(service.url) as stub:
        assert service.judge(photo)
        family = [service.server, *service.server.children(recursive=True)]
        request = make_request([encode_strings(photo)])
        calls = [stub.ModelInfer.future(request, timeout=120) for _ in range(SENT)]
        wait_until(lambda: any(call.done() for call in calls))
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        outcomes = Counter(status_of(call) for call in calls)
        assert service.process.wait(60) == 0
        print(f"stopped in {time.monotonic() - began:.1f} s; {dict(outcomes)}")
        assert outcomes.total() == SENT
        assert {status for status, _ in outcomes} <= {"OK", "UNAVAILABLE"}  # our clients send the latter elsewhere
        assert service.footprint().shared_memory == 0
        assert not [process for process in family if process.is_running() and process.status() != "zombie"]
