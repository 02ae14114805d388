"""Preparing images in child processes: the same result, and no image ends more than its child."""

import os
import signal
import time

import numpy as np
import psutil
import pytest

from veridict.deploy.backfill.isolation import IsolatedPool
from veridict.forensics.errors import ImageError
from veridict.forensics.preprocess import prepare

pytestmark = pytest.mark.slow


@pytest.fixture
def others():
    """The processes that other tests of this session keep."""
    return psutil.Process().children(recursive=True)


@pytest.fixture
def pool(others):
    pool = IsolatedPool(1)
    yield pool
    pool.shutdown()
    assert [p for p in psutil.Process().children(recursive=True) if p not in others] == []


def test_images_are_prepared_as_in_this_process_and_refused_with_their_code(pool, encode, cat):
    data = encode(cat)
    [found] = pool.map(prepare, [data])
    here = prepare(data)
    assert np.array_equal(found.view, here.view)
    assert found.observation.measurements == here.observation.measurements
    with pytest.raises(ImageError, match=r"\[image.truncated\]"):
        pool.submit(prepare, data[: len(data) // 2]).result()


def test_a_crash_refuses_one_image(pool, others, encode):
    large = encode(np.random.default_rng(0).integers(0, 256, (5000, 5000, 3), np.uint8))
    [child] = [p for p in psutil.Process().children(recursive=True) if p not in others and not p.children()]
    waiting = pool.submit(prepare, large)
    before = child.cpu_times().user
    while child.cpu_times().user - before < 0.05:  # it is at work
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGSEGV)
    with pytest.raises(ImageError, match=r"\[image.decode_crash\]"):
        waiting.result()
    assert pool.submit(prepare, large).result().observation.image.width == 5000
