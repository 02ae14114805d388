"""Requests that break the protocol: each gets its status at once, and the server is as it was."""

import struct
from dataclasses import replace

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from veridict.forensics.observation import Observation

from .raw_requests import IMAGE, encode_strings, make_request, open_stub, outcome
from .service import MEBIBYTE, assert_nothing_is_left

pytestmark = [pytest.mark.live, pytest.mark.slow]

PIXELS = ("PIXELS", "UINT8", (1, 224, 224, 3))
OBSERVATION, SLOT = ("OBSERVATION", "BYTES", (1, 1)), ("SLOT", "INT64", (1, 2))
ROW = bytes(224 * 224 * 3)


@pytest.fixture
def stub(service):
    """A connection; afterwards the service must have what it had before."""
    before, server = service.footprint(), service.server
    with open_stub(service.url) as stub:
        yield stub
    assert service.server == server
    assert_nothing_is_left(service, before)


def statuses(stub, requests):
    """Return the gRPC status of each request by its name."""
    return {name: outcome(stub, request)[0] for name, request in requests.items()}


def shaped(*shape):
    return [("IMAGE", "BYTES", shape)]


def test_wrong_tensors_are_invalid_arguments(service, stub, photo):
    data = encode_strings(photo)
    requests = {
        "no tensor": make_request([], []),
        "one too many": make_request([data, data], [IMAGE, ("MORE", "BYTES", (1, 1))]),
        "the same twice": make_request([data, data], [IMAGE, IMAGE]),
        "another name": make_request([data], [("PICTURE", "BYTES", (1, 1))]),
        "another type": make_request([bytes(4)], [("IMAGE", "FP32", (1, 1))]),
        "no such type": make_request([data], [("IMAGE", "FP99", (1, 1))]),
        "pixels": make_request([photo], [("IMAGE", "UINT8", (1, len(photo)))]),
        "no batch dimension": make_request([data], shaped(1)),
        "no shape": make_request([data], shaped()),
        "three dimensions": make_request([data], shaped(1, 1, 1)),
        "two images where one belongs": make_request([data], shaped(1, 2)),
        "no images at all": make_request([data], shaped(1, 0)),
        "a negative count": make_request([data], shaped(-1, 1)),
        "a huge count": make_request([data], shaped(2**31, 1)),
        "a count that overflows": make_request([data], shaped(2**62, 4)),
        "fewer than said": make_request([data], shaped(2, 1)),
        "more than said": make_request([encode_strings(photo, photo)], shaped(1, 1)),
        "33 images": make_request([encode_strings(*[photo] * 33)], shaped(33, 1)),
        "no content": make_request([]),
        "an output that is not there": make_request([data]),
    }
    requests["an output that is not there"].outputs.add(name="PROBABILITY")
    assert statuses(stub, requests) == dict.fromkeys(requests, "INVALID_ARGUMENT")
    assert service.judge(photo)


def test_strings_that_are_encoded_wrongly_are_invalid_arguments(service, stub, photo):
    contents = {
        "empty": b"",
        "three bytes": b"abc",
        "no length": photo,
        "a length beyond the end": struct.pack("<I", len(photo) + 1) + photo,
        "the largest length": struct.pack("<I", 2**32 - 1) + photo,
        "a short length": struct.pack("<I", 10) + photo,
        "bytes after the end": encode_strings(photo) + b"abc",
    }
    assert statuses(stub, {n: make_request([c]) for n, c in contents.items()}) == dict.fromkeys(
        contents, "INVALID_ARGUMENT"
    )
    assert service.judge(photo)


def test_unknown_models_and_versions_are_named_so(stub, photo):
    data = [encode_strings(photo)]
    models = {name: make_request(data, model=name) for name in ("", "nothing", "../../etc/passwd", "a" * 1_000)}
    assert statuses(stub, models) == dict.fromkeys(models, "NOT_FOUND")
    versions = {v: make_request(data, model_version=v) for v in ("2", "-1", "0", "latest", "9" * 40)}
    assert set(statuses(stub, versions).values()) <= {"NOT_FOUND", "INVALID_ARGUMENT"}
    assert outcome(stub, make_request(data, model="a" * 100_000))[0] == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    "request_id",
    ["", "a" * 1_000_000, "a\nE0101 forged line\n", "\u202e\U0001f600", "a\0b", '"}{\\', "%s%n{0}", "../../x"],
    ids=["empty", "a megabyte", "line breaks", "unicode", "nul", "quotes", "formats", "a path"],
)
def test_odd_request_ids_come_back_as_they_are_and_forge_no_log_line(service, photo, request_id):
    lines = len(service.lines)
    with service.client() as client:
        assert client.detect(photo, request_id=request_id or None).verdict
    with open_stub(service.url) as stub:
        answer = stub.ModelInfer(make_request([encode_strings(photo)], id=request_id), timeout=60)
        assert answer.id == request_id.partition("\0")[0]  # Triton's ids are C strings
        refused = make_request([encode_strings(b"junk"), bytes(16)], [OBSERVATION, SLOT], "fusion", id=request_id)
        assert outcome(stub, refused)[0] == "INTERNAL"  # this one is logged with its id
    assert not any(line.startswith("E0101 forged") for line in service.lines[lines:])


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("priority", "high", "INVALID_ARGUMENT"),
        ("priority", 10**18, "OK"),
        ("timeout", "soon", "INVALID_ARGUMENT"),
        ("timeout", 2**63 - 1, "OK"),
        ("timeout", 1, "UNAVAILABLE"),
        ("sequence_id", 5, "OK"),
        ("nothing_known", "x", "OK"),
    ],
)
def test_odd_parameters_are_refused_or_ignored(service, photo, name, value, status):
    request = make_request([encode_strings(photo)])
    kind = "string_param" if isinstance(value, str) else "int64_param"
    request.parameters[name].CopyFrom(service_pb2.InferParameter(**{kind: value}))
    with open_stub(service.url) as stub:
        assert outcome(stub, request)[0] == status


def test_the_networks_refuse_what_is_not_theirs(service, stub, photo):
    requests = {}
    for model in ("clip_image", "face_cnn", "face_cnn_explain"):
        requests |= {
            f"{model}: channels first": make_request([ROW], [("PIXELS", "UINT8", (1, 3, 224, 224))], model),
            f"{model}: too few bytes": make_request([bytes(10)], [PIXELS], model),
            f"{model}: NaN": make_request(
                [np.full(150528, np.nan, np.float32).tobytes()], [("PIXELS", "FP32", (1, 224, 224, 3))], model
            ),
            f"{model}: 65 rows": make_request([ROW * 65], [("PIXELS", "UINT8", (65, 224, 224, 3))], model),
            f"{model}: no row": make_request([b""], [("PIXELS", "UINT8", (0, 224, 224, 3))], model),
        }
    assert statuses(stub, requests) == dict.fromkeys(requests, "INVALID_ARGUMENT")
    for token in (-1, 49408, 2**31 - 1, -(2**31)):  # outside the vocabulary
        tokens = np.full(32, token, np.int32).tobytes()
        status, _ = outcome(stub, make_request([tokens], [("TOKENS", "INT32", (1, 32))], "clip_text"))
        assert status in ("OK", "INTERNAL")
    assert service.judge(photo)


def observation_of(stub, photo):
    """Return the observation that ``preprocess`` makes of an image."""
    answer = stub.ModelInfer(make_request([encode_strings(photo)], model="preprocess"), timeout=60)
    names = [output.name for output in answer.outputs]
    return Observation.from_bytes(answer.raw_output_contents[names.index("OBSERVATION")][4:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_no_number_gets_an_error_and_no_verdict(service, stub, photo, value):
    observation = observation_of(stub, photo)
    for name in ("embedding", "class_tokens"):
        damaged = replace(observation, **{name: np.full_like(getattr(observation, name), value)})
        request = make_request([encode_strings(damaged.to_bytes()), bytes(16)], [OBSERVATION, SLOT], "fusion")
        assert outcome(stub, request) == ("INTERNAL", "[server.internal] fusion failed")
    assert service.judge(photo)


def test_fusion_answers_foreign_bytes_and_foreign_slots_with_an_error(service, stub, photo):
    observation = observation_of(stub, photo).to_bytes()
    for data in (b"", b"junk", b"{}", observation[:-1], observation + b"x"):
        request = make_request([encode_strings(data), bytes(16)], [OBSERVATION, SLOT], "fusion")
        assert outcome(stub, request)[0] == "INTERNAL"
    for slot in (-1, 2**62, -(2**63)):
        content = [encode_strings(observation), np.full(2, slot, np.int64).tobytes()]
        assert outcome(stub, make_request(content, [OBSERVATION, SLOT], "fusion"))[0] == "OK"
    assert service.judge(photo)


def test_messages_beyond_the_limit_are_refused_and_use_the_room_of_the_first_ones_again(service, photo):
    request = make_request([encode_strings(photo + bytes(64 * MEBIBYTE))])

    def send(count):
        for _ in range(count):
            status, message = outcome(stub, request)
            assert status == "INVALID_ARGUMENT"
            assert "image.too_large" in message

    with open_stub(service.url) as stub:
        # Shared memory never shrinks, and a stub keeps what it freed: the first large messages cost several times their
        # size, depending on which of their copies are there at the same time. Later ones use that room again.
        send(15)
        grown = service.footprint()
        assert service.judge(photo)
        send(15)
    # If one copy of each stayed, fifteen would take 960 MiB.
    assert_nothing_is_left(service, grown, resident=480)
