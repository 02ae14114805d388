"""No job is lost when workers or Redis are killed, storage fails or a method fails; every part is the real one."""

import base64
import contextlib
import json
import os
import signal
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from veridict.explain.attribution import Budget
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.embedded_redis import EmbeddedRedis
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.jobs.webhook_signature import ID, SIGNATURE, verify

from .conftest import wait_until


def stored_results(settings):
    return sorted(path.parent.name for path in (settings.state / "store" / "results").glob("*/*/result.json"))


def all_finished(client, jobs):
    return all(client.status(job).finished for job in jobs)


class Receiver:
    """A webhook endpoint that answers with the statuses it is given, then with 200."""

    def __init__(self, *statuses):
        self.requests, left = [], list(statuses)
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the sender was killed while sending: no complete request
                    self.close_connection = True
                    return
                requests.append((dict(self.headers), body))
                self.send_response(left.pop(0) if left else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/done"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


SECRET, OLD_SECRET = ("whsec_" + base64.b64encode(bytes([byte]) * 32).decode() for byte in (1, 2))


@pytest.mark.slow
def test_kill_9_twenty_times_loses_nothing(workers, client, settings, images):
    with Receiver() as receiver:
        environment = {"VERIDICT_WEBHOOK_URL": receiver.url, "VERIDICT_WEBHOOK_SECRET": SECRET}
        jobs = [client.submit(image, ["slow"]).jobs["slow"] for image in images[:20]]
        worker = workers.start(settings, environment=environment)
        killed = set()

        def first_try_under_way():
            for job in jobs:
                status = client.status(job)
                if status.state == "running" and status.deliveries == 1 and job not in killed:
                    return job
            return None

        while len(killed) < 20:
            job = wait_until(first_try_under_way)
            workers.stop(worker, signal.SIGKILL)
            assert client.status(job).state == "running"  # it died in the middle
            killed.add(job)
            worker = workers.start(settings, environment=environment)
        second = workers.start(settings, environment=environment)
        wait_until(lambda: all_finished(client, jobs), 40)
        states = [client.status(job) for job in jobs]
        assert {s.state for s in states} == {"done"}
        assert all(2 <= s.deliveries <= 3 for s in states)  # each was killed once and redelivered
        assert stored_results(settings) == sorted(jobs)  # exactly one result each
        assert all(stream.waiting() == (0, 0) for stream in client.queue.streams.values())
        wait_until(lambda: client.queue.client.xlen(client.queue.events_key) == 0)
        completions = {json.loads(body)["completion"]: json.loads(body)["id"] for _, body in receiver.requests}
        assert sorted(completions.values()) == sorted(jobs)  # each finished once
        assert workers.alive(second)


def test_redis_killed_in_the_middle_loses_nothing(workers, tmp_path, images):
    server = EmbeddedRedis(tmp_path / "r")
    server.ensure()
    try:
        settings = QueueSettings(redis_url=server.url, state=tmp_path, lease=0.6, backoff=0.1)
        with ExplanationClient(settings) as client:
            jobs = [client.submit(image, ["slow"]).jobs["slow"] for image in images[:8]]
            workers.start(settings)
            wait_until(lambda: sum(client.status(job).finished for job in jobs) >= 2)
            before = {job: client.status(job).state for job in jobs}
            os.kill(client.queue.client.info("server")["process_id"], signal.SIGKILL)
            time.sleep(0.3)
            server.ensure()
            after = {job: client.status(job).state for job in jobs}
            assert all(after[job] == "done" for job in jobs if before[job] == "done")
            late = client.submit(images[8], ["slow"]).jobs["slow"]
            wait_until(lambda: all_finished(client, [*jobs, late]), 30)
            assert {client.status(job).state for job in [*jobs, late]} == {"done"}
            assert stored_results(settings) == sorted([*jobs, late])
        workers.stop_all()
    finally:
        server.stop()


@pytest.mark.parametrize(("method", "code"), [("poison", "explain.internal"), ("deadly", "explain.crashed")])
def test_poison_goes_to_the_dead_letters_and_the_others_proceed(workers, client, settings, images, method, code):
    bad = client.submit(images[0], [method]).jobs[method]
    good = [client.submit(image, ["sharpness"]).jobs["sharpness"] for image in images[1:6]]
    pids = [workers.start(settings)]

    def finished():
        if not workers.alive(pids[-1]):  # an orchestrator starts dead workers again
            pids.append(workers.start(settings))
        return all_finished(client, [bad, *good])

    wait_until(finished, 30)
    status = client.status(bad)
    assert (status.state, status.code) == ("dead", code)
    (letter,) = client.queue.dead_letters()
    assert (letter.job, letter.code) == (bad, code)
    assert letter.deliveries == (3 if method == "poison" else 4)  # the fourth delivery detects it
    assert len(pids) == (1 if method == "poison" else 4)
    assert {client.status(job).state for job in good} == {"done"}
    with pytest.raises(ExplainError) as caught:
        client.fetch(bad)
    assert caught.value.code == "explain.dead"
    assert client.submit(images[0], [method]).jobs[method] == bad  # submitting again does not queue it
    assert client.status(bad).state == "dead"
    assert client.queue.requeue(letter)
    assert not client.queue.requeue(letter)
    assert client.queue.dead_letters() == []


def test_a_failing_store_is_retried_then_dead_lettered_then_requeued(workers, client, settings, images):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    blocked = settings.state / "store" / "results"
    blocked.write_text("a file where the folder belongs")
    workers.start(settings)
    wait_until(lambda: client.queue.dead_letters(), 20)
    (letter,) = client.queue.dead_letters()
    assert (letter.code, letter.deliveries) == ("explain.store", 3)
    blocked.unlink()
    with pytest.raises(ExplainError, match="dead"):
        client.fetch(job)
    assert client.queue.requeue(letter)
    assert client.wait(job, 20).method == "sharpness"


def test_sigterm_finishes_the_job_in_hand(workers, client, settings, images):
    jobs = [client.submit(image, ["slow"]).jobs["slow"] for image in images[:2]]
    pid = workers.start(settings)
    wait_until(lambda: client.status(jobs[0]).state == "running")
    workers.stop(pid)
    assert [client.status(job).state for job in jobs] == ["done", "queued"]


def test_sigterm_inside_the_lock_of_an_event_does_not_deadlock(workers, settings, client):
    pid = workers.start(settings, environment={"TEST_SIGTERM_INSIDE_WAIT": "1"})
    wait_until(lambda: not workers.alive(pid), 15)
    assert workers.log().read_text().endswith("stopped\n")


def test_many_signals_stop_an_idle_worker_once(workers, settings, client):
    pid = workers.start(settings)
    wait_until(lambda: "ready:" in workers.log().read_text())
    with contextlib.suppress(ProcessLookupError):
        for turn in range(200):
            os.kill(pid, (signal.SIGTERM, signal.SIGINT)[turn % 2])
            time.sleep(0.001)
    wait_until(lambda: not workers.alive(pid), 15)
    assert workers.log().read_text().count("stopped") == 1
    assert "Traceback" not in workers.log().read_text()


def test_sigterm_returns_a_job_that_takes_too_long_without_counting_it(workers, client, settings, images):
    job = client.submit(images[0], ["slow"], budget=Budget(samples=5000)).jobs["slow"]
    pid = workers.start(settings, "--grace", "0.3")
    wait_until(lambda: client.status(job).state == "running")
    started = time.monotonic()
    workers.stop(pid)
    assert time.monotonic() - started < 3
    assert client.status(job).state == "queued"
    name = client.queue.streams["live"].name
    (pending,) = client.queue.client.xpending_range(name, "workers", "-", "+", 10)
    assert pending["times_delivered"] == 0
    assert pending["time_since_delivered"] >= settings.lease * 1000  # the next worker may take it at once
    assert "Traceback" not in workers.log().read_text()


def test_a_slow_job_is_not_taken_for_a_dead_workers(workers, client, settings, images):
    job = client.submit(images[0], ["slow"], budget=Budget(samples=5000)).jobs["slow"]
    for _ in range(2):
        workers.start(settings)
    wait_until(lambda: client.status(job).state == "running")
    time.sleep(4 * settings.lease)
    assert client.status(job).deliveries == 1


def test_a_worker_restarts_the_embedded_redis_that_stopped_with_another_worker(workers, tmp_path, images):
    settings = QueueSettings(state=tmp_path, lease=0.6, backoff=0.1)
    owner = workers.start(settings)
    wait_until(lambda: "ready:" in workers.log().read_text())
    workers.start(settings)
    wait_until(lambda: "ready:" in workers.log().read_text())
    with ExplanationClient(settings) as client:
        jobs = [client.submit(image, ["slow"]).jobs["slow"] for image in images[:3]]
        workers.stop(owner)
        wait_until(lambda: all_finished(client, jobs), 30)
        assert stored_results(settings) == sorted(jobs)
    workers.stop(workers.pids[-1])
    assert not (tmp_path / "redis" / "redis.sock").exists()


def test_health_and_metrics_of_a_running_worker(workers, client, settings, images):
    workers.start(settings)
    line = wait_until(lambda: [x for x in workers.log().read_text().splitlines() if x.startswith("ready:")])[0]
    base = line.rpartition("metrics ")[2].removesuffix("/metrics")
    client.wait(client.submit(images[0], ["sharpness"]).jobs["sharpness"], 20)
    client.submit(images[0], ["ela"])  # a PNG: refused for good
    counted = b'veridict_explain_failures_total{cause="explain.not_applicable"} 1.0'
    wait_until(lambda: counted in urllib.request.urlopen(f"{base}/metrics").read())
    text = urllib.request.urlopen(f"{base}/metrics").read().decode()
    assert 'veridict_explain_seconds_count{method="sharpness"} 1.0' in text
    assert 'veridict_explain_jobs_total{method="sharpness",outcome="done"} 1.0' in text
    assert 'veridict_explain_failures_total{cause="explain.not_applicable"} 1.0' in text
    assert 'veridict_explain_queue_lag{priority="live"} 0.0' in text
    assert "veridict_explain_dead_letters 0.0" in text
    assert "veridict_explain_waiting_seconds_total 0.0" in text  # no server, so no verdicts to wait for
    for name in ("live", "ready"):
        assert urllib.request.urlopen(f"{base}/health/{name}").status == 200
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        urllib.request.urlopen(f"{base}/nothing")
    caught.value.close()


def test_webhooks_are_signed_and_retried(workers, client, settings, images):
    with Receiver(500, 302) as receiver:
        secrets = f"{SECRET} {OLD_SECRET}"
        environment = {"VERIDICT_WEBHOOK_URL": receiver.url, "VERIDICT_WEBHOOK_SECRET": secrets}
        workers.start(settings, environment=environment)
        job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
        wait_until(lambda: len(receiver.requests) == 3, 20)
        for headers, body in receiver.requests:
            assert verify(SECRET, headers, body)
            assert verify(OLD_SECRET, headers, body)
            assert not verify(SECRET, headers, body + b" ")
        received = [{name.lower(): value for name, value in headers.items()} for headers, _ in receiver.requests]
        assert [len(headers[SIGNATURE].split()) for headers in received] == [2, 2, 2]
        document = json.loads(receiver.requests[-1][1])
        assert (document["id"], document["state"]) == (job, "done")
        assert {headers[ID] for headers in received} == {document["completion"]}  # the same id on every attempt
        wait_until(lambda: client.queue.client.xlen(client.queue.events_key) == 0)
        assert len(receiver.requests) == 3
