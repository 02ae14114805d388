"""No shared memory, no memory for a stub, no disk, no Redis: what needs them fails by name, the rest goes on."""

import contextlib
import io
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from veridict.client import InternalError, InvalidImageError, UnavailableError, VeridictError
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.embedded_redis import EmbeddedRedis
from veridict.explain.jobs.queue import JobQueue
from veridict.explain.jobs.settings import QueueSettings
from veridict.explain.jobs.store import Store
from veridict.explain.jobs.telemetry import Metrics
from veridict.explain.jobs.worker import Worker
from veridict.explain.models import Models

from .service import MEBIBYTE, Service, assert_nothing_is_left, wait_until

pytestmark = [pytest.mark.live, pytest.mark.slow]


def may_mount():
    """Return whether this user may mount a file system in a mount namespace of its own."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not may_mount(), reason="needs the right to mount a small file system (root)")


def noise(side, seed):
    """Return a PNG that does not compress: about 3 * side * side bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def fill(path):
    """Write a file that takes all room of its file system."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    assert shutil.disk_usage(path).free == 0


@needs_mount
def test_a_full_shared_memory_fails_large_requests_and_no_others_and_passes(photo, small_repository):
    """In a mount namespace of its own, so that no other server of this machine is touched."""
    mount = 'mount -t tmpfs -o size=256m tmpfs /dev/shm && exec "$@"'
    own_memory = ("unshare", "--mount", "sh", "-c", mount, "sh")
    with Service("--repository", str(small_repository), "--no-standby", prefix=own_memory) as service:
        assert service.judge(photo)
        large = noise(1500, 1)
        filler = Path(f"/proc/{service.process.pid}/root/dev/shm/filler")
        fill(filler)
        with service.client() as client:
            for _ in range(3):
                with pytest.raises((InternalError, UnavailableError)) as caught:
                    client.detect(large)
                print(caught.value)
                assert client.detect(photo).verdict
            filler.unlink()
            assert client.detect(large).verdict
            assert client.detect(photo).verdict
        assert service.announced == 1


def test_a_stub_without_memory_fails_its_request_and_the_service_goes_on(service, photo):
    before, server = service.footprint(), service.server
    stub = service.stubs()["preprocess"]
    virtual = int(Path(f"/proc/{stub}/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(stub, resource.RLIMIT_AS)
    resource.prlimit(stub, resource.RLIMIT_AS, (virtual + MEBIBYTE, hard))
    outcomes = []
    with service.client(attempts=1) as client:
        for number in range(3):
            try:
                outcomes.append(client.detect(noise(2000, number)).verdict)
            except VeridictError as error:
                outcomes.append(error.code)
    print(outcomes)
    if service.server == server:
        with contextlib.suppress(ProcessLookupError):  # it died, and the launcher is about to notice
            resource.prlimit(stub, resource.RLIMIT_AS, (hard, hard))
    wait_until(lambda: service.answers(photo))
    assert not [code for code in outcomes if code in ("client.protocol", "client.input")]
    service.wait_for_standby()
    assert_nothing_is_left(service, before)


def command(*words, **options):
    run = [sys.executable, "-m", "veridict.deploy.command", *words]
    return subprocess.run(run, capture_output="stdout" not in options, text=True, timeout=120, check=False, **options)


@pytest.mark.parametrize("form", ["text", "json"])
def test_verdicts_that_cannot_be_written_end_the_command_with_one_sentence(service, tmp_path, photo, form):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    with open("/dev/full", "w") as full:
        done = command("detect", str(path), "--url", service.url, "--format", form, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 4 MiB; the test may fill it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_explanations_that_cannot_be_written_end_the_command_with_one_sentence(full_disk, tmp_path, photo):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    fill(full_disk / "filler")
    done = command("explain", str(path), "--method", "sharpness", "-o", str(full_disk / "out"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


@pytest.fixture
def queue_settings(tmp_path_factory):
    """A Redis of its own, and the settings of a queue in it."""
    folder = tmp_path_factory.mktemp("q")
    server = EmbeddedRedis(folder)
    server.ensure()
    yield server, QueueSettings(redis_url=server.url, state=folder, lease=5.0, backoff=0.1, store_url=str(folder / "s"))
    server.stop()


def test_a_disk_full_while_results_are_written_returns_the_job_until_there_is_room(
    full_disk, queue_settings, encode, cat
):
    _, settings = queue_settings
    settings = QueueSettings(**{**vars(settings), "store_url": str(full_disk)})
    with ExplanationClient(settings) as client:
        queue = JobQueue(settings, settings.redis_url, "worker")
        worker = Worker(queue, Store(settings.store), Models(), Metrics(queue))
        queue.register_worker(worker.models.versions)
        job = client.submit(encode(cat[:80, :96], "PNG"), ["sharpness"]).jobs["sharpness"]
        fill(full_disk / "filler")
        for _ in range(settings.deliveries + 1):
            worker.handle(wait_until(queue.take, 20))
            assert client.status(job).state == "queued"
            assert client.status(job).code == "explain.store"
        assert "explain.store" in worker.check_ready()
        assert client.queue.dead_letters() == []
        (full_disk / "filler").unlink()
        worker.handle(wait_until(queue.take, 20))
        assert client.status(job).state == "done"
        queue.close()


def test_without_redis_jobs_are_refused_by_name_and_verdicts_are_unaffected(service, queue_settings, photo):
    server, settings = queue_settings
    before = service.judge(photo)
    with ExplanationClient(settings) as client:
        assert client.submit(photo, ["sharpness"]).jobs
        server.stop()
        with pytest.raises(ExplainError) as caught:
            client.submit(photo, ["sharpness"])
        assert caught.value.code == "explain.queue"
        verdict = service.judge(photo)
        assert (verdict.verdict, verdict.fake_probability) == (before.verdict, before.fake_probability)
        with service.client() as detector, pytest.raises(InvalidImageError):
            detector.detect(b"no image")
