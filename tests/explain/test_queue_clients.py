"""The clients, settings and commands of the explanation queue."""

import asyncio
import json
import subprocess
import sys
import threading

import pytest

from veridict.deploy.command import main
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.client import AsyncExplanationClient, ExplanationClient
from veridict.explain.jobs.job import Job
from veridict.explain.jobs.settings import QueueSettings, Webhook

from .conftest import SECRET, work


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
def test_bad_requests_are_refused_with_a_code(client, images, options, code):
    client.store.put_image(images[0])  # a store that nothing was ever put into does not exist
    arguments = {"image": images[0], "methods": ["sharpness"], **options}
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
    with pytest.raises(ExplainError, match="not a Redis URL"):
        ExplanationClient(QueueSettings(redis_url="nonsense", state=tmp_path))
    with pytest.raises(ExplainError) as caught:
        Job.from_fields("x", {})
    assert caught.value.code == "explain.bad_request"


def test_settings_are_checked():
    for bad in ({"lease": 0.1}, {"deliveries": 0}, {"backoff": -1}):
        with pytest.raises(ExplainError):
            QueueSettings(**bad)
    with pytest.raises(ExplainError, match="https"):
        Webhook("http://example.org/x", SECRET)
    for bad in ("", "short", SECRET.removeprefix("whsec_")):
        with pytest.raises(ExplainError, match="secret is"):
            Webhook("https://example.org/x", bad)
    assert SECRET not in repr(Webhook("https://example.org/x", SECRET))
    given = {
        "VERIDICT_REDIS_URL": "redis://h:1",
        "VERIDICT_WEBHOOK_URL": "https://h/x",
        "VERIDICT_WEBHOOK_SECRET": SECRET,
    }
    settings = QueueSettings.from_environment(given)
    assert settings.redis_url == "redis://h:1"
    assert settings.webhook.url == "https://h/x"


def test_the_asyncio_client(settings, client, worker, images):
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()

    async def go():
        async with AsyncExplanationClient(settings) as asynchronous:
            jobs = (await asynchronous.submit(images[0], ["sharpness", "noise"])).jobs
            results = await asyncio.gather(*(asynchronous.wait(job, 20) for job in jobs.values()))
            assert (await asynchronous.figure(jobs["noise"])).startswith(b"\x89PNG")
            worker.stop()
            thread.join(10)
            waiting = (await asynchronous.submit(images[1], ["noise"])).jobs["noise"]
            with pytest.raises(ExplainError) as caught:
                await asynchronous.wait(waiting, 0.3)
            assert caught.value.code == "explain.timeout"
            assert (await asynchronous.status(jobs["noise"])).state == "done"
            return [r.method for r in results]

    assert asyncio.run(go()) == ["sharpness", "noise"]
    assert worker.check_live() == ""
    assert worker.check_ready() == "stopping"


def test_the_jobs_command(settings, client, worker, images, capsys):
    options = ["--redis", settings.redis_url, "--store", settings.store]
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    delivery = worker.queue.take()
    worker.queue.start(delivery)
    worker.queue.dead_letter(delivery, ExplainError("explain.internal", "why"))
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
    with pytest.raises(SystemExit) as caught:
        main(["worker", *bad])
    assert caught.value.code == 2
    assert f"argument {bad[0]}: {bad[1]} is not in the range" in capsys.readouterr().err


def test_the_client_imports_neither_torch_nor_opencv():
    code = (
        "import sys; from veridict.explain import ExplanationClient, QueueSettings; import veridict.client;"
        "import veridict.explain.cli_explain, veridict.explain.jobs.cli_jobs, veridict.explain.jobs.cli_worker;"
        "bad = {'torch', 'cv2', 'captum', 'shap', 'lime'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
