"""Deadlines shorter than the work: a refusal, and no work on the image afterwards."""

import time
from collections import Counter

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from .raw_requests import encode_strings, make_request, open_stub
from .service import assert_nothing_is_left, wait_until
from .test_stopping import metric, status_of

pytestmark = [pytest.mark.live, pytest.mark.slow]

SENT = 24
#: What Triton counts per image of a model.
JUDGED = r'nv_inference_count\{model="clip_image"'


def settled(service):
    """Return how many images the network has seen, once that number stands still."""
    value = metric(service, JUDGED)
    while (later := (time.sleep(1.0), metric(service, JUDGED))[1]) != value:
        value = later
    return value


def test_an_image_whose_deadline_passed_costs_no_inference(service, encode, cat):
    before, judged = service.footprint(), settled(service)
    data = encode_strings(encode(np.tile(cat, (4, 4, 1))))
    hurried = make_request([data])
    hurried.parameters["timeout"].CopyFrom(service_pb2.InferParameter(int64_param=200_000))  # microseconds
    with open_stub(service.url) as stub:
        calls = [
            stub.ModelInfer.future(r, timeout=120) for _ in range(SENT // 2) for r in (make_request([data]), hurried)
        ]
        outcomes = Counter(status_of(call) for call in calls)
    print(dict(outcomes))
    assert set(outcomes) <= {("OK", ""), ("UNAVAILABLE", "[server.deadline]")}
    assert outcomes["UNAVAILABLE", "[server.deadline]"] > 0, "the deadline was longer than the work"
    assert settled(service) - judged == outcomes["OK", ""]
    wait_until(lambda: metric(service, r"veridict_images_under_way") == 0)
    assert_nothing_is_left(service, before)
