"""The closed loop, the process tree that it measures, and the images that it sends."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from veridict.forensics.decode import decode_image
from veridict.forensics.faces import find_faces
from veridict.loadtests import sample_images
from veridict.loadtests.closed_loop import RejectedError, run_closed_loop
from veridict.loadtests.machine import ProcessTree, busy_seconds


@pytest.mark.parametrize("size", sample_images.SIZES)
def test_a_photograph_has_its_size_and_a_face(size):
    image = decode_image(sample_images.photograph(*sample_images.SIZES[size]))
    assert (image.width, image.height) == sample_images.SIZES[size]
    assert len(find_faces(image.pixels)) == 1


@pytest.mark.parametrize("count", sample_images.FACE_COUNTS)
def test_an_image_of_portraits_has_as_many_faces_as_asked_for(count):
    assert len(find_faces(decode_image(sample_images.portraits(count)).pixels)) == count


def test_more_portraits_than_fit_are_refused():
    with pytest.raises(ValueError, match="0 to 8"):
        sample_images.portraits(9)


def test_the_closed_loop_counts_images_and_rejections_but_not_the_warm_up():
    opened, state = [], {"calls": 0}

    @contextmanager
    def connect():
        opened.append("open")

        def call():
            state["calls"] += 1
            time.sleep(0.01)
            if state["calls"] % 5 == 0:
                raise RejectedError
            return 3

        yield call
        opened.append("closed")

    found = run_closed_loop(connect, 2, 0.3, warm_up=0.2)
    assert opened.count("open") == opened.count("closed") == 2
    assert min(found.latencies) >= 10
    assert found.images == 3 * len(found.latencies)
    assert found.rejected > 0
    assert len(found.latencies) + found.rejected < state["calls"]
    assert found.rate == pytest.approx(found.images / found.seconds)
    assert (found.server_cpu, found.memory) == (None, None)


def test_a_block_without_an_answer_is_an_error():
    @contextmanager
    def connect():
        def call():
            raise RejectedError

        yield call

    with pytest.raises(RuntimeError, match="no request"):
        run_closed_loop(connect, 1, 0.05, warm_up=0.0)


def test_a_failing_call_ends_the_block():
    @contextmanager
    def connect():
        def call():
            raise OSError("gone")

        yield call

    with pytest.raises(OSError, match="gone"):
        run_closed_loop(connect, 2, 0.2, warm_up=0.0)


def test_a_process_tree_counts_its_children_and_stands_still_while_paused():
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    before = busy_seconds()
    with subprocess.Popen([sys.executable, "-c", burn], start_new_session=True) as process:
        tree = ProcessTree(process.pid)
        try:
            ends = time.monotonic() + 20
            while tree.cpu_seconds() < 0.3 and time.monotonic() < ends:
                time.sleep(0.05)
            assert tree.cpu_seconds() >= 0.3
            assert tree.memory().rss > tree.memory().pss > 0
            tree.pause()
            time.sleep(0.05)
            still = tree.cpu_seconds()
            time.sleep(0.2)
            assert tree.cpu_seconds() == still
            tree.resume()
            ends = time.monotonic() + 20
            while tree.cpu_seconds() == still and time.monotonic() < ends:
                time.sleep(0.05)
            assert tree.cpu_seconds() > still
        finally:
            subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
    assert busy_seconds() > before
