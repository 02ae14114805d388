"""What ``veridict ui`` starts, what it hands to the page, and what it refuses."""

import argparse
import re
import sys
import threading
import time

import pytest
from sqlalchemy import event

from veridict.client import DetectorClient, Tls
from veridict.deploy.command import main
from veridict.deploy.launcher import LaunchError
from veridict.deploy.manifest import RepositoryError
from veridict.deploy.ui import cli, launch
from veridict.deploy.ui.processes import child
from veridict.deploy.ui.records import count
from veridict.deploy.ui.settings import UiSettings


@pytest.fixture
def settings(tmp_path, database):
    return UiSettings("127.0.0.1:1", database, tmp_path / "images", state=str(tmp_path))


def parse(*words):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.read_settings(parser.parse_args(words))


def test_settings_reach_the_page_unchanged(tmp_path, monkeypatch):
    (tmp_path / "queue").mkdir()
    settings = parse(
        *("--state", str(tmp_path), "--url", "host:1", "--queue", str(tmp_path / "queue"), "--lease", "20"),
        *("--keep-days", "0.5", "--user-header", "X-User", "--redis", "redis://r", "--database", "sqlite://", "--tls"),
        *("--policy", "strict"),
    )
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert UiSettings.from_environment() == settings
    assert settings.client_config().tls == Tls()
    assert settings.client_config().policy == "strict"
    assert settings.queue().redis_url == "redis://r"
    assert (settings.lease, settings.keep_days, settings.user_header) == (20.0, 0.5, "X-User")


def test_the_default_database_and_images_lie_in_the_state_folder(tmp_path):
    settings = parse("--state", str(tmp_path))
    assert settings.database == f"sqlite:///{tmp_path}/review/review.sqlite"
    assert settings.folder == tmp_path / "review" / "images"


def test_an_address_that_was_given_is_waited_for(settings, capsys):
    with launch.detector(settings, own=False) as ready:
        assert ready.url == settings.url
    assert "waits for the detector, which does not answer yet, at 127.0.0.1:1" in capsys.readouterr().out


def test_without_any_detector_it_asks_for_an_address(settings, monkeypatch):
    def start(self):
        raise RepositoryError("manifest.json is missing")

    monkeypatch.setattr(launch.TritonServer, "start", start)
    with (
        pytest.raises(LaunchError, match=r"at 127\.0\.0\.1:1, .*manifest\.json.*name a running one with --url"),
        launch.detector(settings, own=True),
    ):
        pass


def test_without_a_worker_the_page_says_so(settings, capsys, tmp_path):
    with launch.worker(settings, wanted=False, log=tmp_path / "log") as ready:
        assert ready.notes == ("Started no explanation worker: no heatmaps.",)
    assert "started no explanation worker" in capsys.readouterr().out


def test_the_page_is_local_protected_and_silent():
    options = dict(word.removeprefix("--").partition("=")[::2] for word in launch.page_command("127.0.0.1", 1)[5:])
    expected = {
        "server.address": "127.0.0.1",
        "server.enableXsrfProtection": "true",
        "server.enableAgentApi": "false",
        "server.maxUploadSize": "20",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
    }
    assert expected.items() <= options.items()


def test_a_local_page_accepts_only_names_of_this_machine_and_those_that_are_given():
    def hosts(*arguments):
        prefix = "--server.allowedHosts="
        return [word.removeprefix(prefix) for word in launch.page_command(*arguments) if word.startswith(prefix)]

    assert hosts("127.0.0.1", 1) == ["localhost", "127.0.0.1"]
    assert hosts("0.0.0.0", 1) == []
    assert hosts("0.0.0.0", 1, ["review.example"]) == ["localhost", "127.0.0.1", "0.0.0.0", "review.example"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--queue", "/no/such"), 2, "no such file or folder: /no/such"),
        (("--tls-root", "/no/such.pem"), 2, "TLS"),
        (("--database", "nonsense"), 1, "the database URL cannot be used"),
        (("--host", "203.0.113.1", "--port", "8501"), 1, "no network interface of this machine has it"),
    ],
)
def test_what_cannot_work_is_one_sentence(tmp_path, capsys, words, status, message):
    try:
        found = main(["ui", "--state", str(tmp_path), *words])
    except SystemExit as error:
        found = error.code
    shown = capsys.readouterr().err
    assert (found, len(shown.splitlines())) == (status, 1), shown
    assert message in shown
    assert "--page-port" not in shown


def test_an_export_of_nothing_is_a_folder_without_images(tmp_path, capsys):
    assert main(["ui", "--state", str(tmp_path), "--export", str(tmp_path / "out")]) == 0
    assert "0 real and 0 fake images" in capsys.readouterr().out
    assert main(["ui", "--state", str(tmp_path), "--export", str(tmp_path / "out")]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_feeding_goes_on_after_a_failure(settings, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"image")
    settings = UiSettings(**{**vars(settings), "sources": (str(tmp_path / "in"), str(tmp_path / "gone.jsonl"))})
    stop = threading.Event()
    feed = launch.make_feed(settings)
    thread = threading.Thread(target=launch.keep_feeding, args=(feed, settings, stop))
    thread.start()
    said, ends = "", time.monotonic() + 60
    try:
        while "the queue waits for the detector" not in said:
            assert time.monotonic() < ends, said
            time.sleep(0.05)
            said += capsys.readouterr().err
    finally:
        stop.set()
        thread.join()
    assert count(feed.store).waiting == 0


def test_a_child_ends_with_the_block(tmp_path):
    code = "import time; print('begun', flush=True); time.sleep(600)"
    with child([sys.executable, "-c", code], {}, tmp_path / "log") as process:
        ends = time.monotonic() + 30
        while not (tmp_path / "log").read_text():
            assert time.monotonic() < ends
            time.sleep(0.02)
        assert process.poll() is None
    assert process.poll() is not None


def test_an_item_costs_as_many_statements_in_a_long_queue(store, add):
    statements = []
    engine = store.sessions.kw["bind"]
    event.listen(engine, "before_cursor_execute", lambda c, cursor, statement, *rest: statements.append(statement))
    numbers = []
    for wanted in (5, 60):
        for number in range(count(store).waiting, wanted):
            add(b"%d" % number, fake_probability=0.001 * number)
        statements.clear()
        item = store.claim("ada")
        numbers.append(len(statements))
        store.release(item.id, "ada")
    assert numbers[0] == numbers[1] <= 6
    assert "LIMIT" in next(each for each in statements if "ORDER BY" in each)


@pytest.mark.slow
def test_without_an_address_it_starts_a_detector_and_stops_it_again(start_ui, tmp_path):
    """On a machine that serves at the default address, that server is used instead."""
    with start_ui("--state", str(tmp_path), "--no-worker") as page:
        said = "\n".join(page.lines)
        assert re.search(r"started a detector at 127\.0\.0\.1:\d+|uses the detector at 127\.0\.0\.1:8001", said)
        address = re.search(r"detector at (\S+)", said)[1]
        with DetectorClient(address) as client:
            assert client.ready(timeout=30.0)
    if "started" in said:
        with DetectorClient(address) as client:
            assert not client.ready(timeout=1.0)
