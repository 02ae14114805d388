"""Same bytes, same answer, bit for bit: alone, in batches, beside other requests, after a restart, on a replica."""

import json
import random

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import ServerSettings, TritonServer

pytestmark = [pytest.mark.live, pytest.mark.slow]
#: What an answer says of the request and not of the image.
OF_THE_REQUEST = ("request_id", "timings_ms")


def canonical(document):
    """Return an answer's text without what differs from request to request; equal texts mean equal bits."""
    fields = json.loads(document)
    for name in OF_THE_REQUEST:
        fields.pop(name)
    return json.dumps(fields, sort_keys=True)


def ask_batch(url, batch):
    """Return the answers and the fake probabilities of one request of several images."""
    tensor = triton_grpc.InferInput("IMAGE", [len(batch), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data] for data in batch], dtype=np.object_))
    with triton_grpc.InferenceServerClient(url) as client:
        answer = client.infer("detector", [tensor], client_timeout=300)
    documents = [canonical(document) for document in answer.as_numpy("VERDICT").ravel()]
    return list(zip(documents, answer.as_numpy("FAKE_PROBABILITY").ravel().tolist(), strict=True))


@pytest.fixture(scope="module")
def images(encode, astronaut, cat, coffee, three_faces):
    """Files of all formats: with no, one and three faces, tiny and large, grey, transparent, smooth and noisy."""
    rng = np.random.default_rng(11)
    large = np.tile(astronaut, (5, 5, 1))
    alpha = np.dstack([cat, np.linspace(0, 255, cat.shape[0], dtype=np.uint8)[:, None].repeat(cat.shape[1], 1)])
    return [
        encode(astronaut, quality=85),
        encode(cat, quality=60),
        encode(coffee, "PNG"),
        encode(three_faces, quality=95),
        encode(large, quality=80),
        encode(cat, "WEBP", quality=75),
        encode(astronaut, mode="L"),
        encode(alpha, "PNG"),
        encode(coffee[:40, :60], "PNG"),
        encode(rng.integers(0, 256, (300, 200, 3), dtype=np.uint8), quality=90),
    ]


@pytest.fixture(scope="module")
def alone(triton, images):
    """The answer to each image as the only one under way."""
    return [ask_batch(triton.url, [data])[0] for data in images]


def differing(numbers, answers, alone):
    """Return the numbers of the images whose answers are not those that they got alone."""
    return [number for number, answer in zip(numbers, answers, strict=True) if answer != alone[number]]


@pytest.mark.parametrize("size", [2, 3, 8, 20])
def test_in_a_batch_of_any_size(triton, images, alone, size):
    numbers = random.Random(size).choices(range(len(images)), k=size)
    assert not differing(numbers, ask_batch(triton.url, [images[n] for n in numbers]), alone)


def test_beside_other_requests(triton, images, alone):
    numbers = random.Random(1).choices(range(len(images)), k=40)
    with DetectorClient(config=ClientConfig(triton.url, deadline=300.0, concurrency=12)) as client:
        results = list(client.detect_many(images[n] for n in numbers))
    assert not [r.error for r in results if r.error is not None]
    documents = [canonical(result.verdict.to_json()) for result in results]
    assert not differing(numbers, documents, [document for document, _ in alone])


def test_on_a_replica_and_after_its_restart(images, alone):
    settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
    for _ in range(2):
        with TritonServer(settings) as replica:
            # Other first images and other company than on the first server.
            order = list(reversed(range(len(images))))
            answers = [ask_batch(replica.url, [images[n]])[0] for n in order[:5]]
            answers += ask_batch(replica.url, [images[n] for n in order[5:]])
        assert not differing(order, answers, alone)


def test_the_comparison_sees_a_single_bit(alone):
    document, probability = alone[0]
    fields = json.loads(document)
    fields["fake_probability"] = float(np.nextafter(fields["fake_probability"], 1.0))
    assert (json.dumps(fields, sort_keys=True), probability) != alone[0]
    assert canonical(json.dumps({**fields, "request_id": "x", "timings_ms": {}})) != document
