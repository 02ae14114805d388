"""The store in a folder and on a real S3 protocol server."""

import io
import time
import uuid

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.jobs.store import Store
from veridict.explain.jobs.telemetry import Metrics
from veridict.explain.jobs.worker import Worker
from veridict.explain.methods import run_method
from veridict.explain.models import Models
from veridict.explain.subject import read_subject

from .conftest import wait_until


@pytest.fixture(scope="module")
def s3_server():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


def s3_environment(endpoint):
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }


def create_bucket():
    name = f"results-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/explanations"


@pytest.fixture
def bucket(s3_server, monkeypatch):
    for name, value in s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    return create_bucket()


@pytest.fixture(scope="module")
def result(images):
    return run_method("sharpness", read_subject(images[0]), Models(), Budget())


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket"))


def test_what_is_stored_comes_back(store, images, result):
    sha = store.put_image(images[0])
    assert store.put_image(images[0]) == sha
    assert store.get_image(sha) == images[0]
    job = f"{sha}-sharpness-forensics-1"
    assert store.state(job) is None
    with pytest.raises(ExplainError, match="no result yet"):
        store.get_result(job)
    store.put_result(job, result, b"\x89PNG figure")
    again = store.get_result(job)
    assert np.array_equal(again.values, result.values)
    assert again.document() == result.document()
    assert store.get_figure(job) == b"\x89PNG figure"
    failed = f"{sha}-ela-forensics-1"
    store.put_failure(failed, ExplainError("explain.not_applicable", "because"))
    with pytest.raises(ExplainError, match="because"):
        store.get_result(failed)
    store.check()
    for bad in ("0" * 64, "../images"):
        with pytest.raises(ExplainError) as caught:
            store.get_image(bad)
        assert caught.value.code == "explain.unknown_image"


def test_a_worker_delivers_to_s3(settings, redis_server, bucket, images):
    settings = QueueSettings(**{**vars(settings), "store_url": bucket})
    with ExplanationClient(settings) as client:
        client.queue.client.flushall()
        queue = JobQueue(settings, settings.redis_url, "worker")
        worker = Worker(queue, Store(settings.store), Models(), Metrics(queue))
        queue.register_worker(worker.models.versions)
        job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
        worker.handle(queue.take())
        assert client.wait(job, 5).method == "sharpness"
        assert Image.open(io.BytesIO(client.figure(job))).format == "PNG"
        assert worker.check_ready() == ""
        queue.close()


def test_s3_going_away_in_the_middle_of_a_job_loses_nothing(workers, client, settings, images, monkeypatch):
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = s3_environment(f"http://{host}:{port}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = QueueSettings(**{**vars(settings), "store_url": create_bucket()})
    try:
        with ExplanationClient(settings) as client:
            jobs = [client.submit(image, ["slow"]).jobs["slow"] for image in images[:2]]
            workers.start(settings, environment=environment)
            wait_until(lambda: client.status(jobs[0]).state == "running")
            server.stop()  # the connection is refused from here on: the first job cannot store what it computes
            wait_until(lambda: client.status(jobs[0]).code == "explain.store", 60)
            time.sleep(3.0)  # longer than all retries of a job that fails by its own fault
            assert [client.status(job).state for job in jobs] == ["queued", "queued"]  # never acknowledged unstored
            assert client.status(jobs[1]).deliveries == 0  # a worker without its store takes no job
            assert client.queue.dead_letters() == []
            server = ThreadedMotoServer(host, port, verbose=False)  # the same buckets: moto keeps them in the process
            server.start()
            for job in jobs:
                assert client.wait(job, 60).method == "slow"
            assert client.queue.dead_letters() == []
    finally:
        server.stop()


def test_a_bucket_that_is_not_there_is_a_store_error(bucket):
    store = Store(bucket.replace("results-", "missing-"))
    with pytest.raises(ExplainError) as caught:
        store.put_image(b"x")
    assert caught.value.code == "explain.store"


def test_damage_is_noticed(tmp_path, images, result):
    store = Store(str(tmp_path))
    sha = store.put_image(images[0])
    (tmp_path / "images" / sha).write_bytes(b"another file")
    with pytest.raises(ExplainError, match="damaged"):
        store.get_image(sha)
    job = f"{sha}-sharpness-1"
    store.put_result(job, result, b"")
    (tmp_path / "results" / sha / job / "values.npz").unlink()
    with pytest.raises(ExplainError, match="missing"):
        store.get_result(job)
    (tmp_path / "results" / sha / job / "result.json").write_text('{"schema": "other"}')
    with pytest.raises(ExplainError, match="not of schema veridict-explanation/1"):
        store.state(job)
    with pytest.raises(ExplainError, match="nothing-like-this"):
        Store("nothing-like-this://x")


def test_a_missing_bucket_is_the_store_s_fault_and_a_missing_image_is_not(bucket):
    with pytest.raises(ExplainError) as caught:
        Store(bucket).get_image("a" * 64)
    assert caught.value.code == "explain.unknown_image"
    with pytest.raises(ExplainError) as caught:
        Store(bucket.replace("results-", "missing-")).get_image("a" * 64)
    assert caught.value.code == "explain.store"
