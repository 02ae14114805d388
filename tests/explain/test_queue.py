"""The queue's promises one by one, on a real Redis, with a worker in this process."""

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from veridict.deploy.command import main
from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.jobs import worker as worker_module
from veridict.explain.jobs.client import AsyncExplanationClient, ExplanationClient
from veridict.explain.jobs.job import Job, job_id
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.settings import QueueSettings, Webhook
from veridict.explain.jobs.store import Store
from veridict.explain.jobs.telemetry import Metrics
from veridict.explain.jobs.worker import Worker
from veridict.explain.models import Models


@pytest.fixture
def worker(settings, client):
    queue = JobQueue(settings, settings.redis_url, "worker-a")
    worker = Worker(queue, Store(settings.store), Models(), Metrics(queue))
    queue.prepare(worker.models.versions)
    yield worker
    queue.close()


def work(worker):
    """Handle everything that can be taken right now; return the job ids in order."""
    seen = []
    while (delivery := worker.queue.take()) is not None:
        seen.append(delivery.fields.get("job"))
        worker.handle(delivery)
    return seen


def test_live_goes_before_batch_and_each_in_order(client, worker, pictures):
    batch = [client.submit(p, ["sharpness"], priority="batch").jobs["sharpness"] for p in pictures[:3]]
    live = [client.submit(p, ["sharpness"]).jobs["sharpness"] for p in pictures[3:5]]
    assert work(worker) == [*live, *batch]


def test_asking_live_for_a_waiting_batch_job_moves_it_up(client, worker, pictures):
    first, second = (client.submit(p, ["sharpness"], priority="batch").jobs["sharpness"] for p in pictures[:2])
    assert client.submit(pictures[1], ["sharpness"]).jobs["sharpness"] == second
    assert client.status(second).priority == "live"
    assert work(worker) == [second, first, second]  # the third is the stale entry, dropped
    assert (
        worker.metrics.registry.get_sample_value(
            "veridict_explain_jobs_total", {"method": "sharpness", "outcome": "done"}
        )
        == 2
    )


def test_submitting_twice_is_one_job(client, worker, pictures):
    job = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
    assert client.submit(pictures[0], ["sharpness"]).jobs["sharpness"] == job
    assert work(worker) == [job]
    client.submit(pictures[0], ["sharpness"])
    assert work(worker) == []
    client.queue.client.flushall()  # Redis forgets; the store does not
    worker.queue.prepare(worker.models.versions)
    client.submit(pictures[0], ["sharpness"])
    assert work(worker) == []
    assert client.status(job).state == "done"
    assert client.fetch(job).method == "sharpness"
    assert client.figure(job).startswith(b"\x89PNG")


def test_the_key_is_image_method_and_model_version(client, pictures):
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
    assert client.submit(client.submit(pictures[0], ["noise"]).sha256, ["noise"])  # by the sha256 of a stored image


def test_a_refusal_is_an_answer_and_not_retried(client, worker, pictures):
    job = client.submit(pictures[0], ["ela"]).jobs["ela"]
    assert work(worker) == [job]
    assert client.status(job).state == "failed"
    with pytest.raises(ExplainError, match="PNG file was never a JPEG") as caught:
        client.wait(job)
    assert caught.value.code == "explain.not_applicable"
    client.queue.client.flushall()
    assert client.status(job).state == "failed"


def test_a_worker_of_another_model_version_does_not_answer(settings, client, worker, pictures):
    job = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
    worker.models.versions["forensics"] = "forensics-2"
    work(worker)
    assert client.status(job).code == "explain.model_mismatch"
    assert not client.status(job).finished
    with pytest.raises(ExplainError, match="queued"):
        client.fetch(job)


def test_damaged_and_unknown_jobs_do_not_stop_the_worker(client, worker, pictures):
    stream = client.queue.streams["live"].name
    client.queue.client.xadd(stream, {"job": "no such job"})
    client.queue.client.xadd(stream, {"something": "else"})
    broken = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
    client.queue.client.hset(client.queue.key(broken), "budget", "{")
    good = client.submit(pictures[1], ["sharpness"]).jobs["sharpness"]
    work(worker)
    assert client.status(good).state == "done"
    assert client.status(broken).state == "dead"
    assert [x.code for x in client.queue.dead_letters()] == ["explain.bad_request"]


def test_a_stored_result_whose_acknowledgement_was_lost_is_not_computed_again(client, worker, pictures, monkeypatch):
    job = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
    delivery = worker.queue.take()
    assert worker._answer(worker.queue.start(delivery), worker_module.Cancellation(10)) is None  # stored, then "died"
    monkeypatch.setattr(worker_module, "run_method", lambda *a: pytest.fail("computed again"))
    worker.handle(delivery)
    assert client.status(job).state == "done"


def test_a_stored_result_is_never_buried_however_often_it_was_delivered(client, worker, pictures):
    job = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
    delivery = worker.queue.take()
    assert worker._answer(worker.queue.start(delivery), worker_module.Cancellation(10)) is None
    worker.handle(replace(delivery, count=4))
    assert client.status(job).state == "done"
    assert client.queue.dead_letters() == []


def test_a_worker_that_lost_its_job_cannot_take_it_back(settings, client, worker, pictures):
    job = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
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
    assert not worker.queue.bury(mine, error)
    assert client.status(job).state == "running"
    assert other.finish(theirs)
    assert not other.finish(theirs)
    worker.queue.release(mine, error, 0.0)
    assert client.status(job).state == "done"
    other.close()


def test_a_failed_delivery_waits_for_its_backoff(settings, client, pictures):
    queue = JobQueue(QueueSettings(**{**vars(settings), "lease": 1.0}), settings.redis_url, "worker-a")
    queue.prepare({"forensics": "forensics-1"})
    client.submit(pictures[0], ["sharpness"])
    delivery = queue.take()
    queue.start(delivery)
    queue.release(delivery, ExplainError("explain.internal"), 0.5)
    assert queue.take() is None
    threading.Event().wait(0.6)
    assert queue.take().count == 2
    queue.close()


def test_the_trace_goes_from_the_request_to_the_workers_span(client, worker, pictures, monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(worker_module, "TRACER", provider.get_tracer("test"))
    with provider.get_tracer("request").start_as_current_span("upload") as span:
        wanted = span.get_span_context().trace_id
        client.submit(pictures[0], ["sharpness"])
    given = "00-" + "12" * 16 + "-" + "34" * 8 + "-01"
    client.submit(pictures[1], ["ela"], trace_context={"traceparent": given})
    work(worker)
    first, second = (s for s in exporter.get_finished_spans() if s.name == "veridict.explain")
    assert first.context.trace_id == wanted
    assert f"{second.context.trace_id:032x}" == "12" * 16
    assert second.status.description == "explain.not_applicable"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"methods": ["magic"]}, "explain.unknown_method"),
        ({"methods": []}, "explain.bad_request"),
        ({"priority": "urgent"}, "explain.bad_request"),
        ({"face": -1}, "explain.bad_request"),
        ({"image": b""}, "explain.image"),
        ({"image": 7}, "explain.bad_request"),
        ({"image": "/no/such/file"}, "explain.bad_request"),
        ({"image": "0" * 64}, "explain.unknown_image"),
    ],
)
def test_bad_requests_are_refused_with_a_code(client, pictures, options, code):
    arguments = {"image": pictures[0], "methods": ["sharpness"], **options}
    with pytest.raises(ExplainError) as caught:
        client.submit(arguments.pop("image"), arguments.pop("methods"), **arguments)
    assert caught.value.code == code
    assert client.queue.client.xlen(client.queue.streams["live"].name) == 0


def test_unknown_jobs_and_unreachable_queues(client, tmp_path):
    for job in ("nonsense", "../../etc", "a" * 64 + "-ela-1"):
        with pytest.raises(ExplainError) as caught:
            client.status(job)
        assert caught.value.code == "explain.unknown_job"
    with pytest.raises(ExplainError, match="veridict worker"):
        ExplanationClient(QueueSettings(state=tmp_path / "none"))
    with pytest.raises(ExplainError, match="no Redis URL"):
        ExplanationClient(QueueSettings(redis_url="nonsense", state=tmp_path))
    with pytest.raises(ExplainError) as caught:
        Job.from_fields("x", {})
    assert caught.value.code == "explain.bad_request"


def test_settings_are_checked():
    for bad in ({"lease": 0.1}, {"deliveries": 0}, {"backoff": -1}):
        with pytest.raises(ExplainError):
            QueueSettings(**bad)
    with pytest.raises(ExplainError, match="https"):
        Webhook("http://example.org/x", "0123456789abcdef")
    with pytest.raises(ExplainError, match="16 characters"):
        Webhook("https://example.org/x", "short")
    assert "secret-of-many" not in repr(Webhook("https://example.org/x", "secret-of-many-letters"))
    given = {
        "VERIDICT_REDIS_URL": "redis://h:1",
        "VERIDICT_WEBHOOK_URL": "https://h/x",
        "VERIDICT_WEBHOOK_SECRET": "s" * 16,
    }
    settings = QueueSettings.from_environment(given)
    assert settings.redis_url == "redis://h:1"
    assert settings.webhook.url == "https://h/x"


def test_the_asyncio_client(settings, client, worker, pictures):
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()

    async def go():
        async with AsyncExplanationClient(settings) as asynchronous:
            jobs = (await asynchronous.submit(pictures[0], ["sharpness", "noise"])).jobs
            results = await asyncio.gather(*(asynchronous.wait(job, 20) for job in jobs.values()))
            assert (await asynchronous.figure(jobs["noise"])).startswith(b"\x89PNG")
            worker.stop()
            thread.join(10)
            waiting = (await asynchronous.submit(pictures[1], ["noise"])).jobs["noise"]
            with pytest.raises(ExplainError) as caught:
                await asynchronous.wait(waiting, 0.3)
            assert caught.value.code == "explain.timeout"
            assert (await asynchronous.status(jobs["noise"])).state == "done"
            return [r.method for r in results]

    assert asyncio.run(go()) == ["sharpness", "noise"]
    assert worker.check_live() == ""
    assert worker.check_ready() == "stopping"


def test_the_jobs_command(settings, client, worker, pictures, capsys):
    options = ["--redis", settings.redis_url, "--store", settings.store]
    job = client.submit(pictures[0], ["sharpness"]).jobs["sharpness"]
    delivery = worker.queue.take()
    worker.queue.start(delivery)
    worker.queue.bury(delivery, ExplainError("explain.internal", "why"))
    assert main(["jobs", "dead", *options]) == 0
    assert f"explain.internal  {job}" in capsys.readouterr().out
    assert main(["jobs", "queue", *options]) == 0
    assert "dead   1" in capsys.readouterr().out
    assert main(["jobs", "requeue", *options]) == 2
    assert main(["jobs", "requeue", "nonsense", *options]) == 1
    assert main(["jobs", "requeue", job, *options]) == 0
    assert "1 queued again" in capsys.readouterr().out
    assert main(["jobs", "status", job, *options]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "queued"
    assert work(worker) == [job]
    assert main(["jobs", "status", "nonsense", *options]) == 1
    assert "explain.unknown_job" in capsys.readouterr().err
    assert main(["jobs", "dead", "--state", str(settings.state / "none")]) == 1


@pytest.mark.parametrize(
    "bad", [["--batch", "0"], ["--threads", "-3"], ["--grace", "-1"], ["--port", "99999"], ["--nice", "-5"]]
)
def test_a_worker_refuses_numbers_out_of_range(bad, capsys):
    assert main(["worker", *bad]) == 2
    assert f"{bad[0]} must be" in capsys.readouterr().err


def test_the_client_imports_neither_torch_nor_opencv():
    code = (
        "import sys; from veridict.explain import ExplanationClient, QueueSettings; import veridict.client;"
        "import veridict.explain.cli_explain, veridict.explain.jobs.cli_jobs, veridict.explain.jobs.cli_worker;"
        "bad = {'torch', 'cv2', 'captum', 'shap', 'lime'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
