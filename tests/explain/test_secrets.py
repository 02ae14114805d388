"""Passwords and keys of the environment: in no log line, no error and no repr, whatever fails."""

import base64
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from veridict.deploy.command import main
from veridict.deploy.structured_log import JsonFormatter, TextFormatter, hide_credentials
from veridict.explain.jobs.settings import QueueSettings

PASSWORD = "Tr0ub4dor-of-the-queue"
S3_KEY = "wJalrXUtnFEMI-of-the-store"
WEBHOOK = "whsec_" + base64.b64encode(b"a secret of the webhook receiver").decode()
SECRETS = (PASSWORD, S3_KEY, WEBHOOK, WEBHOOK.removeprefix("whsec_"))


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture
def environment(closed_port, tmp_path):
    return {
        **os.environ,
        "VERIDICT_REDIS_URL": f"redis://user:{PASSWORD}@127.0.0.1:{closed_port}/0",
        "VERIDICT_STORE_URL": "s3://bucket/prefix",
        "VERIDICT_STATE": str(tmp_path),
        "VERIDICT_WEBHOOK_URL": "https://hooks.example.org/veridict",
        "VERIDICT_WEBHOOK_SECRET": WEBHOOK,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": S3_KEY,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port}",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }


def command(*words):
    return [sys.executable, "-m", "veridict.deploy.command", *words]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"VERIDICT_REDIS_URL": f"http://user:{PASSWORD}@127.0.0.1:1"}, "veridict jobs: "),
        ({"VERIDICT_REDIS_URL": f"redis://user:{PASSWORD}@127.0.0.1:no-port"}, "veridict jobs: "),
        ({"VERIDICT_STORE_URL": f"nothing://user:{PASSWORD}@host/path"}, "veridict jobs: "),
        ({"VERIDICT_WEBHOOK_URL": f"http://user:{PASSWORD}@hooks.example.org"}, "starts with https://"),
        ({"VERIDICT_WEBHOOK_SECRET": f"whsec_{PASSWORD}"}, "a webhook secret is whsec_"),
    ],
)
def test_jobs_says_what_is_wrong_without_the_secrets(environment, monkeypatch, capsys, change, words):
    for name, value in (environment | change).items():
        monkeypatch.setenv(name, value)
    assert main(["jobs", "queue"]) == 1
    shown = "".join(capsys.readouterr())
    assert words in shown
    assert not [secret for secret in SECRETS if secret in shown], shown


@pytest.mark.slow
def test_a_worker_whose_redis_and_store_are_away_logs_no_secret(environment, tmp_path):
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            command("worker", "--port", "0", "--log-format", "json"), env=environment, stdout=output, stderr=output
        ) as worker,
    ):
        ends = time.monotonic() + 120
        while "trying again" not in log.read_text() and worker.poll() is None and time.monotonic() < ends:
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    shown = log.read_text()
    assert "Redis or the store failed" in shown
    assert not [secret for secret in SECRETS if secret in shown], shown


def test_settings_show_no_secret(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shown = repr(QueueSettings.from_environment())
    assert "hooks.example.org" in shown
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://user:pass@host:1/0 is away", "redis://***@host:1/0 is away"),
        ("sftp://user:p@ss@host/path, s3://bucket/key", "sftp://***@host/path, s3://bucket/key"),
        ("http://host/a@b and user@example.org", "http://host/a@b and user@example.org"),
    ],
)
def test_credentials_of_urls_are_hidden(text, shown):
    assert hide_credentials(text) == shown


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter("%(message)s")])
def test_a_traceback_hides_them_too(formatter):
    import logging

    try:
        raise ValueError(f"redis://user:{PASSWORD}@host is no place")
    except ValueError:
        record = logging.LogRecord("test", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    shown = formatter.format(record)
    assert "redis://***@host is no place" in shown
    assert PASSWORD not in shown
