"""Each guarantee of the queue, on a real Redis, with a worker in this process."""

import threading
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.jobs import worker as worker_module
from veridict.explain.jobs.job import job_id
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.methods import run_method
from veridict.explain.models import Models
from veridict.explain.subject import read_subject

from .conftest import work


def test_live_goes_before_batch_and_each_in_order(client, worker, images):
    batch = [client.submit(p, ["sharpness"], priority="batch").jobs["sharpness"] for p in images[:3]]
    live = [client.submit(p, ["sharpness"]).jobs["sharpness"] for p in images[3:5]]
    assert work(worker) == [*live, *batch]


def test_submitting_a_waiting_batch_job_as_live_moves_it_to_the_live_stream(client, worker, images):
    first, second = (client.submit(p, ["sharpness"], priority="batch").jobs["sharpness"] for p in images[:2])
    assert client.submit(images[1], ["sharpness"]).jobs["sharpness"] == second
    assert client.status(second).priority == "live"
    assert work(worker) == [second, first, second]  # the third is the stale entry, dropped
    assert (
        worker.metrics.registry.get_sample_value(
            "veridict_explain_jobs_total", {"method": "sharpness", "outcome": "done"}
        )
        == 2
    )


def test_a_job_that_ends_while_the_queue_is_counted_is_not_counted_as_waiting(client, worker, images, monkeypatch):
    client.submit(images[0], ["sharpness"])
    stream = worker.queue.streams["live"]
    assert stream.waiting() == (1, 0)
    delivery = stream.read()
    assert stream.waiting() == (0, 1)
    length = stream.client.xlen

    def count_and_end(name):
        counted = length(name)
        stream.acknowledge(delivery.id)
        return counted

    monkeypatch.setattr(stream.client, "xlen", count_and_end)
    assert stream.waiting() == (0, 0)


def test_submitting_twice_is_one_job(client, worker, images):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    assert client.submit(images[0], ["sharpness"]).jobs["sharpness"] == job
    assert work(worker) == [job]
    client.submit(images[0], ["sharpness"])
    assert work(worker) == []
    client.queue.client.flushall()  # Redis forgets; the store does not
    worker.queue.register_worker(worker.models.versions)
    client.submit(images[0], ["sharpness"])
    assert work(worker) == []
    assert client.status(job).state == "done"
    assert client.fetch(job).method == "sharpness"
    assert client.figure(job).startswith(b"\x89PNG")


def test_the_key_is_image_method_and_model_version(client, images):
    sha = "a" * 64
    keys = {
        job_id(sha, "ela", "1"),
        job_id("b" * 64, "ela", "1"),
        job_id(sha, "noise", "1"),
        job_id(sha, "ela", "2"),
        job_id(sha, "ela", "1", face=1),
        job_id(sha, "ela", "1", budget=Budget(steps=99)),
    }
    assert len(keys) == 6
    assert job_id(sha, "ela", "1", budget=Budget()) == job_id(sha, "ela", "1")
    assert client.submit(client.submit(images[0], ["noise"]).sha256, ["noise"])  # by the sha256 of a stored image


def test_a_refusal_is_an_answer_and_not_retried(client, worker, images):
    job = client.submit(images[0], ["ela"]).jobs["ela"]
    assert work(worker) == [job]
    assert client.status(job).state == "failed"
    with pytest.raises(ExplainError, match="PNG file was never a JPEG") as caught:
        client.wait(job)
    assert caught.value.code == "explain.not_applicable"
    client.queue.client.flushall()
    assert client.status(job).state == "failed"


def test_a_worker_of_another_model_version_does_not_answer(settings, client, worker, images):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    worker.models.versions["forensics"] = "forensics-2"
    work(worker)
    assert client.status(job).code == "explain.model_mismatch"
    assert not client.status(job).finished
    with pytest.raises(ExplainError, match="queued"):
        client.fetch(job)


def test_a_method_that_the_running_workers_do_not_know_is_refused_before_anything_is_stored(client, worker, images):
    client.queue.client.hdel(client.queue.models_key, "token_head")
    with pytest.raises(
        ExplainError, match="'tokens_occlusion': the workers that run are of an older version"
    ) as caught:
        client.submit(images[0], ["sharpness", "tokens_occlusion"])
    assert caught.value.code == "explain.unknown_method"
    assert not any(client.queue.client.xlen(stream.name) for stream in client.queue.streams.values())


def test_damaged_and_unknown_jobs_do_not_stop_the_worker(client, worker, images):
    stream = client.queue.streams["live"].name
    client.queue.client.xadd(stream, {"job": "no such job"})
    client.queue.client.xadd(stream, {"something": "else"})
    broken = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    client.queue.client.hset(client.queue.key(broken), "budget", "{")
    good = client.submit(images[1], ["sharpness"]).jobs["sharpness"]
    work(worker)
    assert client.status(good).state == "done"
    assert client.status(broken).state == "dead"
    assert [x.code for x in client.queue.dead_letters()] == ["explain.bad_request"]


def store_result_of(client, image, job):
    """Do what a worker does before it dies unacknowledged."""
    client.store.put_result(job, run_method("sharpness", read_subject(image), Models(), Budget()), b"\x89PNG")


def test_a_stored_result_whose_acknowledgement_was_lost_is_not_computed_again(client, worker, images, monkeypatch):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    delivery = worker.queue.take()
    worker.queue.start(delivery)
    store_result_of(client, images[0], job)
    monkeypatch.setattr(worker_module, "run_method", lambda *a: pytest.fail("computed again"))
    worker.handle(delivery)
    assert client.status(job).state == "done"


def test_a_job_with_a_stored_result_is_never_dead_lettered(client, worker, images):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    delivery = worker.queue.take()
    store_result_of(client, images[0], job)
    worker.handle(replace(delivery, count=4))
    assert client.status(job).state == "done"
    assert client.queue.dead_letters() == []


def test_a_worker_that_lost_its_job_cannot_take_it_back(settings, client, worker, images):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    mine = worker.queue.take()
    worker.queue.start(mine)
    other = JobQueue(settings, settings.redis_url, "worker-b")
    threading.Event().wait(settings.lease + 0.1)
    theirs = other.take()
    assert theirs.id == mine.id
    assert theirs.count == 2
    error = ExplainError("explain.internal")
    assert not worker.queue.by_name[mine.stream].renew(mine.id)
    worker.queue.release(mine, error, 0.0)
    assert not worker.queue.dead_letter(mine, error)
    assert client.status(job).state == "running"
    assert other.finish(theirs)
    assert not other.finish(theirs)
    worker.queue.release(mine, error, 0.0)
    assert client.status(job).state == "done"
    other.close()


def test_a_failed_delivery_waits_for_its_backoff(settings, client, images):
    queue = JobQueue(QueueSettings(**{**vars(settings), "lease": 1.0}), settings.redis_url, "worker-a")
    queue.register_worker({"forensics": "forensics-1"})
    client.submit(images[0], ["sharpness"])
    delivery = queue.take()
    queue.start(delivery)
    queue.release(delivery, ExplainError("explain.internal"), 0.5)
    assert queue.take() is None
    threading.Event().wait(0.6)
    assert queue.take().count == 2
    queue.close()


def test_the_trace_goes_from_the_request_to_the_workers_span(client, worker, images, monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(worker_module, "TRACER", provider.get_tracer("test"))
    with provider.get_tracer("request").start_as_current_span("upload") as span:
        wanted = span.get_span_context().trace_id
        client.submit(images[0], ["sharpness"])
    given = "00-" + "12" * 16 + "-" + "34" * 8 + "-01"
    client.submit(images[1], ["ela"], trace_context={"traceparent": given})
    work(worker)
    first, second = (s for s in exporter.get_finished_spans() if s.name == "veridict.explain")
    assert first.context.trace_id == wanted
    assert f"{second.context.trace_id:032x}" == "12" * 16
    assert second.status.description == "explain.not_applicable"
