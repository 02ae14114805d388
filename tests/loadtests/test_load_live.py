"""Short loads on the real server: every request accounted for, and latencies that a plain client confirms."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veridict.loadtests.load.generator import Target, send_open_loop
from veridict.loadtests.load.outcomes import Request, reconcile
from veridict.loadtests.load.payloads import Sample

pytestmark = [pytest.mark.live, pytest.mark.slow]

#: More than the server's queue and its running batches hold.
BURST = 200


@pytest.fixture(autouse=True)
def generator_coverage(tmp_path, monkeypatch):
    """Have coverage follow greenlets in the load generator; elsewhere that would double the cost of measuring."""
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        threads, greenlets = 'concurrency = ["thread"]', 'concurrency = ["thread", "gevent"]'
        settings = (Path(__file__).parents[2] / "pyproject.toml").read_text()
        assert threads in settings
        (tmp_path / "coverage.toml").write_text(settings.replace(threads, greenlets))
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG")
        monkeypatch.setenv("COVERAGE_PROCESS_START", str(tmp_path / "coverage.toml"))


def command(*arguments, timeout=120):
    line = [sys.executable, "-m", "veridict.deploy.command", "loadtest", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)


def test_bad_input_under_load_gets_its_codes_and_good_input_its_verdicts(triton, tmp_path):
    report = tmp_path / "sub" / "r.html"
    done = command(
        *("mixed-bad-input", "--url", triton.url, "--metrics-url", triton.metrics_url, "--capacity", 8),
        *("--scale", 0.1, "--deadline", 20, "--json", "--report", report),
    )
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine may miss the generator's own threshold
    run = json.loads(done.stdout)
    counts = run["requests"]["counts"]
    assert run["requests"]["sent"] == counts["answered"] + counts["refused"] >= 25
    assert counts["refused"] >= 5
    figures = run["figures"]
    for name in ("lost", "duplicated", "mismatched", "errors", "judged_twice", "wrong_refusals", "good_unanswered"):
        assert figures[name] == 0, name
    assert "Load test: mixed-bad-input" in report.read_text()
    assert run["passed"] == (done.returncode == 0)
    assert sum(t["requests"] for t in run["locust"] if t["name"] != "Aggregated") == run["requests"]["sent"]


def test_a_missed_threshold_exits_1(triton, tmp_path):
    strict = tmp_path / "t.toml"
    strict.write_text("[steady]\np50_ms = {max = 0.01}\n")
    options = ("--url", triton.url, "--capacity", 4, "--scale", 0.03, "--thresholds", strict)
    done = command("steady", *options)
    assert done.returncode == 1
    assert "| p50_ms | <= 0.01 |" in done.stdout
    assert done.stdout.rstrip().endswith("FAIL")


def test_rejections_do_not_wait_for_the_answers_before_them(triton, encode, coffee):
    """gRPC under gevent waits in a pool of ten threads unless told otherwise: rejections then seem slow."""
    sent = [Request(f"b{n}", 0.0, 0) for n in range(BURST)]
    outcomes, _ = send_open_loop(Target(triton.url, deadline=60.0), [Sample("coffee", encode(coffee))], sent, 1.0)
    reconciliation = reconcile(sent, outcomes)
    assert reconciliation.lost == reconciliation.duplicated == ()
    assert reconciliation.counts["answered"] + reconciliation.counts["rejected"] == BURST
    assert reconciliation.counts["rejected"] > BURST // 5
    verdicts, rejections = (
        statistics.median(o.ended - o.sent for o in outcomes if o.kind == kind) for kind in ("answered", "rejected")
    )
    assert rejections < verdicts / 3


def test_latency_is_what_a_plain_client_sees(triton, detector, encode, cat):
    photo = encode(cat)

    def judge():
        started = time.perf_counter()
        detector.detect(photo)
        return time.perf_counter() - started

    judge()
    plain = statistics.median(judge() for _ in range(15))
    interval = max(0.25, 1.5 * plain)  # below capacity on a slow machine as well, so that no request waits for another
    sent = [Request(f"p{n}", interval * n, 0) for n in range(15)]
    outcomes, _ = send_open_loop(Target(triton.url, deadline=20.0), [Sample("cat", photo)], sent, 16 * interval)
    under_gevent = statistics.median(o.latency for o in outcomes)
    assert plain / 3 < under_gevent < 3 * plain + 0.02
