"""Images that take too long, and decoders that crash, against a real server: one typed error each, and nothing else."""

import glob
import os
import shutil
import signal
import threading
import time
import urllib.request

import pytest

from veridict.client import ClientConfig, DetectorClient, InvalidImageError, UnavailableError, Verdict
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.manifest import update_manifest
from veridict.deploy.stub_processes import find_stubs, model_of, read_state
from veridict.loadtests.hostile.jpeg_coding import many_scans

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def slow_file():
    """A JPEG of 49 million pixels that takes some tenths of a second."""
    return many_scans(7000, 7000, 18)


@pytest.fixture(scope="module")
def strict_server(small_repository, tmp_path_factory):
    """A server that gives no image more than 0.15 s of processor time."""
    repository = shutil.copytree(small_repository, tmp_path_factory.mktemp("strict") / "repository")
    config = repository / "preprocess" / "config.pbtxt"
    text = config.read_text()
    start = text.index("value", text.index('key: "decode_seconds"'))
    config.write_text(f'{text[:start]}value {{ string_value: "0.15" }}{text[text.index("}", start) + 1 :]}')
    update_manifest(repository)
    settings = ServerSettings(repository=repository, grpc_port=0, http_port=0, metrics_port=0, ready_timeout=300)
    with TritonServer(settings) as server:
        yield server


def outcome(client, data):
    try:
        return client.detect(data)
    except Exception as error:
        return error


def refused(server, code):
    text = urllib.request.urlopen(server.metrics_url, timeout=30).read().decode()
    found = [line for line in text.splitlines() if line.startswith(f'veridict_image_errors_total{{code="{code}"}}')]
    return int(float(found[0].split()[-1]))


def descendants(pid):
    """Return the processes that a process started, and those that they started."""
    parents = {child: read_state(child)[1] for child in (int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*"))}
    own = {child for child, parent in parents.items() if parent == pid}
    return [child for child, parent in parents.items() if parent in {pid, *own}]


def processor_seconds(pid):
    return time.clock_gettime((~pid << 3) | 2)  # the clock of another process: clock_getcpuclockid(3)


def test_images_that_take_too_long_are_refused_and_others_judged_meanwhile(strict_server, encode, cat, slow_file):
    before = find_stubs(strict_server.pid)
    with DetectorClient(config=ClientConfig(strict_server.url, deadline=60.0)) as client:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(outcome(client, slow_file))) for _ in range(2)]
        for thread in threads:
            thread.start()
        others = [outcome(client, encode(cat)) for _ in range(3)]
        for thread in threads:
            thread.join()
    assert all(isinstance(other, Verdict) for other in others), others
    assert {type(answer) for answer in answers} == {InvalidImageError}
    assert {answer.code for answer in answers} == {"image.decode_timeout"}
    assert find_stubs(strict_server.pid).keys() == before.keys()
    ends = time.monotonic() + 30
    while refused(strict_server, "image.decode_timeout") < 2:  # published twice a second
        assert time.monotonic() < ends
        time.sleep(0.2)


def test_a_decoder_that_crashes_costs_one_typed_error(triton, detector, encode, cat, slow_file):
    (preprocess,) = (pid for pid in find_stubs(triton.pid) if model_of(pid) == "preprocess")
    before = find_stubs(triton.pid).keys()
    for _ in range(10):  # an image that was ready before the signal came is judged
        begun = {pid: processor_seconds(pid) for pid in descendants(preprocess)}
        answers = []
        thread = threading.Thread(target=lambda: answers.append(outcome(detector, slow_file)))  # noqa: B023 - joined
        thread.start()
        while thread.is_alive():
            working = [pid for pid, seconds in begun.items() if processor_seconds(pid) > seconds + 0.03]
            if working:
                os.kill(working[0], signal.SIGSEGV)
                break
            time.sleep(0.002)
        thread.join()
        if isinstance(answers[0], InvalidImageError):
            break
    assert answers[0].code == "image.decode_crash"
    assert isinstance(detector.detect(encode(cat)), Verdict)
    assert find_stubs(triton.pid).keys() == before


def test_a_server_that_stops_says_so(strict_server, encode, cat):
    """Whatever a stopping server does not judge any more may be sent to another one: no answer is an internal error."""
    data, answers = encode(cat), []
    stopped = threading.Event()

    def send():
        with DetectorClient(config=ClientConfig(strict_server.url, deadline=30.0, attempts=1)) as client:
            while not stopped.is_set():
                answers.append(outcome(client, data))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(answers) < 6:
        time.sleep(0.01)
    strict_server.stop()
    stopped.set()
    for thread in threads:
        thread.join()
    assert {type(answer) for answer in answers} <= {Verdict, UnavailableError}, answers
    assert any(isinstance(answer, UnavailableError) for answer in answers)
