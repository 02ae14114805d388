"""The measurement of the review page runs: a real page and a real Chromium, with few items."""

import shutil
import subprocess
import sys

import pytest

from veridict.loadtests.review_page import Times


def test_a_row_has_the_median_and_the_slowest():
    times = Times("visit", [0.2, 0.1, 0.9], [0.05, 0.03, 0.04])
    assert times.row() == ("visit", "3", "0.20 s", "0.90 s", "0.04 s")


@pytest.mark.slow
@pytest.mark.live
def test_it_prints_a_row_per_action():
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.skip("no Chromium: apt-get install chromium")
    command = [sys.executable, "-m", "veridict.loadtests.review_page"]
    command += ["--items", "50", "--visits", "1", "--decisions", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[:2] for line in done.stdout.splitlines() if " s |" in line]
    assert rows == [["| first visit of a browser", "1"], ["| later visit", "1"], ["| key to the next picture", "2"]]
