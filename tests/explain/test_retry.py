"""The waiting times of retries and polls."""

from itertools import islice

import pytest

from veridict.explain.retry import backoff_seconds, poll_intervals


def test_the_backoff_doubles():
    assert [backoff_seconds(0.2, failures) for failures in (1, 2, 3)] == [0.2, 0.4, 0.8]


def test_poll_intervals_grow_to_the_longest():
    assert list(islice(poll_intervals(0.4, 1.0), 4)) == pytest.approx([0.4, 0.6, 0.9, 1.0])
