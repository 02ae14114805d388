"""The served detector, spoken to over gRPC as a customer does."""

import asyncio
import json
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from veridict.client import AsyncDetectorClient, ClientConfig, DeadlineError, DetectorClient, InvalidImageError
from veridict.deploy.manifest import default_repository
from veridict.deploy.serving.metrics_buffer import PUBLISHED_EVERY
from veridict.export.pipeline import InProcessDetector
from veridict.forensics import signature as sig
from veridict.forensics.fusion import replay

pytestmark = pytest.mark.live


def metric(server, name, model):
    """Return the sum of a Triton counter over a model's label sets."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        text = response.read().decode()
    rows = re.findall(rf"^{name}{{([^}}]*)}} (\S+)$", text, flags=re.MULTILINE)
    return sum(float(value) for labels, value in rows if f'model="{model}"' in labels)


def settled(server, name, model):
    """Return the counter once it stands still: Triton counts a request shortly after it has answered it."""
    value = metric(server, name, model)
    while (later := (time.sleep(0.3), metric(server, name, model))[1]) != value:
        value = later
    return value


@pytest.fixture(scope="module")
def mixed(encode, cat, coffee, astronaut, three_faces):
    """Images of every accepted format and several sizes."""
    small = np.ascontiguousarray(cat[::3, ::3])
    return [
        encode(cat),
        encode(coffee, "PNG"),
        encode(astronaut, "WEBP"),
        encode(three_faces),
        encode(small),
        encode(coffee[:, :200], "WEBP", lossless=True),
        encode(astronaut, mode="L"),
        encode(small, "PNG"),
    ]


def plain_request(server, images):
    tensor = triton_grpc.InferInput("IMAGE", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[data] for data in images], dtype=np.object_))
    with triton_grpc.InferenceServerClient(server.url) as client:
        return client.infer("detector", [tensor], request_id="plain")


@pytest.mark.parametrize("count", [1, 3])
def test_a_plain_kserve_client_gets_documents_and_probabilities(triton, mixed, count):
    result = plain_request(triton, mixed[:count])
    documents = [json.loads(v) for v in result.as_numpy("VERDICT").ravel()]
    probabilities = result.as_numpy("FAKE_PROBABILITY")
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (count, 1)
    for document, probability in zip(documents, probabilities[:, 0], strict=True):
        assert document["schema"] == "veridict/1"
        assert document["request_id"] == "plain"
        assert document["fake_probability"] == pytest.approx(float(probability), abs=1e-6)


def test_the_answer_is_what_the_same_stages_give_in_process(detector, networks, mixed):
    expected = InProcessDetector(default_repository(), networks=networks).detect(mixed)
    for data, wanted in zip(mixed, expected, strict=True):
        verdict = detector.detect(data)
        assert verdict.fake_probability == pytest.approx(wanted.fake_probability, abs=1e-4)
        assert (verdict.image, verdict.category.label, len(verdict.faces)) == (
            wanted.image,
            wanted.category.label,
            len(wanted.faces),
        )
        assert replay(verdict.evidence) == pytest.approx(verdict.fake_probability, abs=1e-6)


def test_one_corrupt_image_of_eight_fails_alone(triton, mixed):
    images = [*mixed[:3], mixed[3][: len(mixed[3]) // 2], *mixed[4:]]
    with ThreadPoolExecutor(8) as pool, DetectorClient(config=ClientConfig(triton.url, deadline=60)) as client:
        results = list(pool.map(lambda d: next(iter(client.detect_many([d]))), images))
    assert [r.error is not None for r in results] == [i == 3 for i in range(8)]
    assert isinstance(results[3].error, InvalidImageError)
    assert results[3].error.code == "image.truncated"
    with pytest.raises(InferenceServerException, match=r"image\.truncated.*image 3") as caught:
        plain_request(triton, images)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.slow
def test_mixed_sizes_and_formats_share_batches(triton, mixed):
    names = ("nv_inference_count", "nv_inference_exec_count")
    before = [settled(triton, name, "preprocess") for name in names]
    with DetectorClient(config=ClientConfig(triton.url, deadline=120)) as client:
        results = list(client.detect_many(mixed * 8, concurrency=24))
    assert all(r.verdict is not None for r in results)
    judged, executions = (settled(triton, n, "preprocess") - b for n, b in zip(names, before, strict=True))
    assert judged == 64
    assert executions < judged


@pytest.mark.slow
def test_zero_one_and_three_faces_in_one_batch(triton, detector, encode, coffee, astronaut, three_faces):
    images = [encode(coffee), encode(astronaut), encode(three_faces)]
    alone = [detector.detect(data) for data in images]
    together = [json.loads(v) for v in plain_request(triton, images).as_numpy("VERDICT").ravel()]
    assert [len(d["faces"]) for d in together] == [0, 1, 3]
    for verdict, document in zip(alone, together, strict=True):
        expected = [f.fake_probability for f in verdict.faces]
        assert [f["fake_probability"] for f in document["faces"]] == pytest.approx(expected, abs=1e-4)
    with DetectorClient(config=ClientConfig(triton.url, deadline=120)) as client:
        for result in client.detect_many(images * 6, concurrency=18):
            assert result.verdict is not None
            assert len(result.verdict.faces) == [0, 1, 3][result.index % 3]


@pytest.mark.slow
def test_more_faces_in_one_request_than_the_face_network_takes_at_once(triton, detector, encode, three_faces):
    data = encode(three_faces)
    alone = detector.detect(data)
    together = [json.loads(v) for v in plain_request(triton, [data] * 32).as_numpy("VERDICT").ravel()]
    assert sum(len(d["faces"]) for d in together) == 96 > sig.FACE_CNN.max_batch_size
    for document in together:
        expected = [f.fake_probability for f in alone.faces]
        assert [f["fake_probability"] for f in document["faces"]] == pytest.approx(expected, abs=1e-4)


def test_without_faces_the_face_cnn_is_not_called(triton, detector, encode, coffee, astronaut):
    before = metric(triton, "nv_inference_count", "face_cnn")
    assert detector.detect(encode(coffee)).faces == ()
    assert metric(triton, "nv_inference_count", "face_cnn") == before
    detector.detect(encode(astronaut))
    assert metric(triton, "nv_inference_count", "face_cnn") == before + 1


@pytest.mark.parametrize("count", [1, 2, 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 32))])
def test_batch_size_does_not_change_the_answer(triton, detector, encode, astronaut, count):
    data = encode(astronaut)
    alone = detector.detect(data)
    documents = [json.loads(v) for v in plain_request(triton, [data] * count).as_numpy("VERDICT").ravel()]
    for document in documents:
        assert document["verdict"] == alone.verdict
        assert document["fake_probability"] == pytest.approx(alone.fake_probability, abs=1e-5)


def test_more_than_the_largest_batch_is_refused_not_crashed(triton, encode, cat):
    with pytest.raises(InferenceServerException, match="batch"):
        plain_request(triton, [encode(cat)] * 33)


def test_many_faces_are_all_scored(detector, encode, astronaut):
    face = astronaut[40:200, 140:300]
    crowd = np.vstack([np.hstack([face] * 5)] * 4)
    verdict = detector.detect(encode(crowd))
    assert 10 <= len(verdict.faces) == verdict.faces_found <= 20
    values = [f.fake_probability for f in verdict.faces]
    assert max(values) - min(values) < 0.5


def test_of_more_faces_than_are_looked_at_all_are_counted(detector, encode, astronaut):
    face = astronaut[40:200, 140:300]
    verdict = detector.detect(encode(np.vstack([np.hstack([face] * 7)] * 6)))
    assert len(verdict.faces) == sig.MAX_FACES < verdict.faces_found <= 42


def test_asyncio_client(triton, mixed):
    async def judge():
        async with AsyncDetectorClient(config=ClientConfig(triton.url, deadline=60)) as client:
            assert await client.ready()
            one = await client.detect(mixed[0], request_id="mine", trace_context={"traceparent": "00-1-1-01"})
            many = [r async for r in client.detect_many([*mixed, b"junk"], concurrency=4)]
            return one, many

    one, many = asyncio.run(judge())
    assert one.request_id == "mine"
    assert [r.error.code for r in many if r.error] == ["image.unsupported_format"]
    assert [r.index for r in many] == list(range(9))


def test_asyncio_client_without_a_server():
    async def judge():
        config = ClientConfig("127.0.0.1:9", deadline=1.0, attempts=2, backoff=0.01)
        async with AsyncDetectorClient(config=config) as client:
            assert not await client.ready(0.5)
            await client.detect(b"x")

    from veridict.client import ServerError

    with pytest.raises(ServerError):
        asyncio.run(judge())


@pytest.mark.slow
def test_a_deadline_that_cannot_be_met_is_a_typed_error(detector, encode, cat):
    data = encode(cat)
    for _ in range(100):  # cancelled in mid-flight, these calls would crash Triton 2.51
        with pytest.raises(DeadlineError):
            detector.detect(data, deadline=0.0005)
    assert detector.detect(data).verdict


@pytest.mark.slow
def test_tasks_that_are_cancelled_leave_the_server_alone(triton, encode, cat):
    data = encode(cat)

    async def judge():
        async with AsyncDetectorClient(config=ClientConfig(triton.url, deadline=60)) as client:
            for number in range(24):  # fewer than the server takes at once, however slow it is
                task = asyncio.create_task(client.detect(data))
                await asyncio.sleep(1e-3 * (number % 10))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            return await client.detect(data)

    assert asyncio.run(judge()).verdict


def test_verdicts_and_refusals_are_counted(triton, detector, encode, cat):
    detector.detect(encode(cat))
    with pytest.raises(InvalidImageError):
        detector.detect(b"junk")
    time.sleep(3 * PUBLISHED_EVERY)
    with urllib.request.urlopen(triton.metrics_url, timeout=10) as response:
        text = response.read().decode()
    assert re.search(r"veridict_images_under_way\{[^}]*\} 0", text)
    for pattern in (
        r'veridict_verdicts_total\{[^}]*verdict="(real|deepfake)"[^}]*\} [1-9]',
        r'veridict_image_errors_total\{[^}]*code="image.unsupported_format"[^}]*\} [1-9]',
        r'veridict_fake_probability_total\{[^}]*tenth="[^"]+"[^}]*\} [1-9]',
    ):
        assert re.search(pattern, text), pattern


def test_clip_text_embeds_tokens(triton):
    tokens = np.zeros((2, 32), np.int32)
    tokens[:, 0], tokens[:, 1] = 49406, 49407
    tensor = triton_grpc.InferInput("TOKENS", [2, 32], "INT32")
    tensor.set_data_from_numpy(tokens)
    with triton_grpc.InferenceServerClient(triton.url) as client:
        embedding = client.infer("clip_text", [tensor]).as_numpy("EMBEDDING")
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
