"""A worker whose store cannot be used takes no jobs, and a job is not blamed for the store of one worker."""

import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from veridict.explain.cli_explain import output_folders
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.store import Store
from veridict.explain.jobs.telemetry import Metrics
from veridict.explain.jobs.worker import Worker
from veridict.explain.models import Models

from .conftest import wait_until


class SwitchedStore(Store):
    """A store that fails while ``broken`` is set."""

    broken = False

    def check(self):
        self.fail_if_broken()
        super().check()

    def get_image(self, sha256):
        self.fail_if_broken()
        return super().get_image(sha256)

    def fail_if_broken(self):
        if self.broken:
            raise ExplainError("explain.store", "PermissionError")


@pytest.fixture
def worker(settings, client):
    queue = JobQueue(settings, settings.redis_url, "worker-a")
    worker = Worker(queue, SwitchedStore(settings.store), Models(), Metrics(queue))
    queue.register_worker(worker.models.versions)
    yield worker
    queue.close()


@contextmanager
def running(worker):
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(timeout=15)


def test_a_worker_without_its_store_takes_no_job_until_the_store_is_back(client, worker, images):
    worker.store.broken = True
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    with running(worker):
        wait_until(lambda: "explain.store" in worker.check_ready())
        threading.Event().wait(1.0)
        assert client.status(job).state == "queued"
        assert client.status(job).deliveries == 0
        worker.store.broken = False
        wait_until(lambda: client.status(job).state == "done")
    assert client.queue.dead_letters() == []


def test_a_store_that_fails_during_a_job_returns_it_uncounted(settings, client, worker, images):
    job = client.submit(images[0], ["sharpness"]).jobs["sharpness"]
    for _ in range(settings.deliveries + 2):
        worker.store.broken = True
        worker.handle(wait_until(worker.queue.take))
        assert client.status(job).state == "queued"
        assert client.status(job).code == "explain.store"
    worker.store.broken = False
    worker.handle(wait_until(worker.queue.take))
    assert client.status(job).state == "done"
    assert client.queue.dead_letters() == []


def test_an_image_that_the_working_store_lacks_is_the_job_s_fault(settings, client, worker, images):
    submission = client.submit(images[0], ["sharpness"])
    (Path(settings.store) / "images" / submission.sha256).unlink()
    for _ in range(settings.deliveries):
        worker.handle(wait_until(worker.queue.take))
    (letter,) = client.queue.dead_letters()
    assert letter.code == "explain.unknown_image"


def test_a_missing_root_is_the_store_s_fault(tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(ExplainError) as caught:
        store.get_image("a" * 64)
    assert caught.value.code == "explain.store"
    store.check()
    with pytest.raises(ExplainError) as caught:
        store.get_image("a" * 64)
    assert caught.value.code == "explain.unknown_image"
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(ExplainError) as caught:
        store.get_image("a" * 64)
    assert caught.value.code == "explain.store"


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["a/photo.jpg"], [""]),
        (["a/photo.jpg", "b/photo.jpg"], ["photo.jpg", "photo.jpg-2"]),
        (["a/photo.jpg", "b/PHOTO.jpg", "a/photo.jpg"], ["photo.jpg", "PHOTO.jpg-2", "photo.jpg-3"]),
        (["a/x", "b/x-2", "b/x"], ["x", "x-2", "x-3"]),
        (["b/x-2", "a/x", "b/x"], ["x-2", "x", "x-3"]),
    ],
)
def test_every_image_gets_a_folder_of_its_own(names, folders):
    found = output_folders([Path(name) for name in names], Path("out"))
    assert found == [Path("out") / name for name in folders]
