"""Images prepared in child processes: the same results, the limits of time and memory, and children that die."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from veridict.deploy.serving.batching_executor import DeadlineExceeded
from veridict.deploy.serving.prepare_pool import ForkServer, PreparePool
from veridict.deploy.serving.prepare_process import (
    ProcessFailed,
    ProcessSettings,
    read_answer,
    serve_images,
    write_request,
)
from veridict.deploy.stub_processes import read_state
from veridict.forensics.errors import ImageError
from veridict.forensics.preprocess import prepare
from veridict.forensics.provenance.read import ProvenanceReader
from veridict.loadtests.hostile.jpeg_coding import many_scans

_MIB = 1 << 20
#: Seconds that a test waits for something before it fails.
_PATIENCE = 60.0


@pytest.fixture(scope="module")
def server():
    made = ForkServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool(server):
    with closing(PreparePool(server, 1, ProcessSettings(2048 * _MIB), 60.0)) as made:
        yield made


@pytest.fixture(scope="module")
def slow_file():
    """A JPEG of 49 million pixels that takes some tenths of a second and 200 MiB."""
    return many_scans(7000, 7000, 18)


def soon():
    return time.monotonic() + _PATIENCE


def wait_until(true):
    ends = soon()
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


def runs(pid):
    return read_state(pid)[2] not in ("", "Z", "X")


def processor_seconds(pid):
    return time.clock_gettime((~pid << 3) | 2)  # the clock of another process: clock_getcpuclockid(3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_child_prepares_an_image_as_this_process_does(pool, encode, three_faces, form):
    data = encode(three_faces, form)
    ours, theirs = prepare(data, provenance=ProvenanceReader()), pool.prepare(data, soon())
    assert np.array_equal(ours.view, theirs.view)
    assert len(theirs.crops) == len(theirs.observation.boxes) == 3
    assert all(np.array_equal(a, b) for a, b in zip(ours.crops, theirs.crops, strict=True))
    for name in ("image", "measurements", "boxes", "faces_found", "tone", "provenance"):
        assert getattr(theirs.observation, name) == getattr(ours.observation, name), name
    assert set(theirs.observation.timings_ms) == set(ours.observation.timings_ms)


def test_a_refusal_keeps_its_code_and_message(pool, encode, cat):
    for data in (b"", b"GIF89a", encode(cat)[:2000], many_scans(64, 64, 600)):
        with pytest.raises(ImageError) as ours:
            prepare(data)
        with pytest.raises(ImageError) as theirs:
            pool.prepare(data, soon())
        assert (theirs.value.code, str(theirs.value)) == (ours.value.code, str(ours.value))


def test_an_image_that_takes_too_long_is_ended_and_the_next_one_judged(server, encode, cat, slow_file):
    with closing(PreparePool(server, 1, ProcessSettings(2048 * _MIB), 0.1)) as pool:
        (process,) = pool.processes
        before = process.pid
        with pytest.raises(ImageError, match=r"decode_timeout.*0\.1 s"):
            pool.prepare(slow_file, soon())
        assert process.pid != before
        assert not runs(before)
        assert pool.prepare(encode(cat[:64, :64]), soon()).observation.image.width == 64


def test_an_image_that_needs_too_much_memory_is_refused_and_the_next_one_judged(server, encode, cat, slow_file):
    pool = PreparePool(server, 1, ProcessSettings(64 * _MIB), 60.0)
    with closing(pool):
        for data in (slow_file, encode(np.zeros((6000, 6000, 3), np.uint8), "PNG")):
            with pytest.raises(ImageError, match=r"decode_memory"):
                pool.prepare(data, soon())
        assert pool.prepare(encode(cat), soon()).observation.image.width == cat.shape[1]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGSEGV, "image.decode_crash"),
        (signal.SIGABRT, "image.decode_crash"),
        (signal.SIGKILL, "image.decode_memory"),
    ],
)
def test_a_child_that_dies_at_work_costs_its_image_an_error_and_the_next_one_nothing(
    pool, encode, cat, slow_file, number, code
):
    (process,) = pool.processes
    pid, errors = process.pid, []

    def work():
        try:
            pool.prepare(slow_file, soon())
        except ImageError as error:
            errors.append(error.code)

    begun = processor_seconds(pid)
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: processor_seconds(pid) > begun + 0.03)
    os.kill(pid, number)
    thread.join()
    assert errors == [code]
    assert pool.prepare(encode(cat), soon()).observation.image.width == cat.shape[1]


def test_a_child_that_died_while_it_waited_costs_nothing(pool, encode, cat):
    (process,) = pool.processes
    before = process.pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not runs(before))
    assert pool.prepare(encode(cat), soon()).observation.image.width == cat.shape[1]
    assert process.pid != before


def test_a_child_that_hangs_is_ended_at_the_deadline(pool, encode, cat):
    (process,) = pool.processes
    before = process.pid
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        pool.prepare(encode(cat), time.monotonic() + 0.2)
    assert not runs(before)
    assert pool.prepare(encode(cat), soon()).observation.image.width == cat.shape[1]


def test_a_fork_server_that_died_is_started_again(encode, cat):
    server = ForkServer()
    with closing(server), closing(PreparePool(server, 2, ProcessSettings(2048 * _MIB), 60.0)) as pool:
        children = [process.pid for process in pool.processes]
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(runs, children)))
        for _ in range(3):
            assert pool.prepare(encode(cat), soon()).observation.image.width == cat.shape[1]
    assert server.pid == 0


def test_children_have_no_secrets_no_foreign_files_and_no_threads(monkeypatch, encode, cat):
    monkeypatch.setenv("TEST_SECRET", "hidden")
    server, settings = ForkServer(), ProcessSettings(2048 * _MIB, niceness=3)
    with socket.socket(), closing(server), closing(PreparePool(server, 1, settings, 60.0)) as pool:
        pool.prepare(encode(cat), soon())  # from now on the child is set up
        (process,) = pool.processes
        child = Path("/proc") / str(process.pid)
        assert b"hidden" not in (child / "environ").read_bytes()
        # Its three standard streams and one socket.
        assert len(list((child / "fd").iterdir())) <= 4
        assert len(list((Path("/proc") / str(server.pid) / "task").iterdir())) == 1
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.nice(0) + 3)
        assert (child / "oom_score_adj").read_text().strip() == "500"


_OWNER = """
import os, sys, time
from veridict.deploy.serving.prepare_pool import ForkServer, PreparePool
from veridict.deploy.serving.prepare_process import ProcessSettings
server = ForkServer()
pool = PreparePool(server, 2, ProcessSettings(1 << 31), 60.0)
print(server.pid, *[process.pid for process in pool.processes], flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_process_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(runs, pids))
        owner.kill()
    wait_until(lambda: not any(map(runs, pids)))


def answered(message):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(message)
        theirs.close()
        return read_answer(ours)


def test_what_a_child_sends_is_not_believed():
    header = struct.Struct("<BQ")
    with pytest.raises(ValueError, match="an answer of"):
        answered(header.pack(0, 1 << 40))
    with pytest.raises(ValueError, match="3 bytes"):
        answered(header.pack(0, 3) + b"abc")
    with pytest.raises(ValueError, match="not an observation"):
        answered(header.pack(0, 16) + struct.pack("<Q", 8) + b"x" * 8)
    with pytest.raises(ProcessFailed, match=r"image\.unheard_of"):
        answered(header.pack(1, 16) + b"image.unheard_of")
    with pytest.raises(ProcessFailed, match="TypeError: no"):
        answered(header.pack(2, 13) + b"TypeError: no")
    with pytest.raises(EOFError):
        answered(b"")


def test_the_loop_of_a_child_answers_until_the_other_end_is_closed(encode, cat, monkeypatch):
    """The loop in this process, so that an error of the code itself can be caused."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve_images, args=(theirs, ProvenanceReader()))
    thread.start()
    with ours:
        ours.sendall(write_request(encode(cat), 60.0))
        assert read_answer(ours).observation.image.width == cat.shape[1]
        monkeypatch.setattr("veridict.deploy.serving.prepare_process.prepare", lambda *_, **__: 1 // 0)
        ours.sendall(write_request(encode(cat), 60.0))
        with pytest.raises(ProcessFailed, match="ZeroDivisionError"):
            read_answer(ours)
    thread.join()
    theirs.close()
