"""The soak run: what counts as growth, and two minutes on a real server."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from veridict.deploy.command import main
from veridict.loadtests.load.outcomes import Outcome
from veridict.loadtests.load.thresholds import check_thresholds, load_thresholds
from veridict.loadtests.machine import ProcessTree
from veridict.loadtests.soak.cli import DEFAULT_THRESHOLDS, figure_names
from veridict.loadtests.soak.sampling import Sample, Sampler, region_patterns, take_sample
from veridict.loadtests.soak.trends import find_trend, growth_figures, latency_windows

#: A run of half an hour with a sample every five seconds.
SECONDS, RATE = 1800.0, 20.0
TIMES = np.arange(0.0, SECONDS, 5.0)


def samples(mb_per_request=0.0, regions_per_second=0.0, handles_per_second=0.0, noise=0.0):
    rng = np.random.default_rng(3)
    return [
        Sample(
            seconds=t,
            rss=2000 + mb_per_request * RATE * t + noise * rng.standard_t(2),
            pss=1500 + mb_per_request * RATE * t,
            shared_memory=80 + regions_per_second * t,
            regions=int(8 + regions_per_second * t),
            processes=7,
            handles=int(120 + handles_per_second * t),
        )
        for t in TIMES
    ]


@cache
def verdicts(drift=0.0):
    """Return answered requests whose latency grows by ``drift`` over the run."""
    rng = np.random.default_rng(4)
    due = np.arange(0.0, SECONDS, 1 / RATE)
    latencies = 0.08 * (1 + drift * due / SECONDS) * rng.gamma(4.0, 0.25, due.size)
    return [
        Outcome(str(n), t, t, t + late, "answered", 0) for n, (t, late) in enumerate(zip(due, latencies, strict=True))
    ]


def missed(samples, outcomes=None):
    """Return the figures of a full run whose thresholds are missed."""
    windows = latency_windows(outcomes or verdicts(), 0.0, SECONDS)
    load = dict.fromkeys(figure_names(), 0.0) | {"answered_share": 1.0}
    figures = load | growth_figures(samples, windows, RATE, SECONDS)
    thresholds = load_thresholds(DEFAULT_THRESHOLDS, "full", figure_names())
    return {check.threshold.figure for check in check_thresholds(thresholds, figures) if not check.passed}


def test_a_server_that_gains_nothing_passes_however_noisy_the_samples():
    assert missed(samples(noise=5.0)) == set()


@pytest.mark.parametrize(
    ("gained", "figure"),
    [
        ({"mb_per_request": 0.0015}, "rss_mb_per_1000"),
        ({"regions_per_second": 0.01}, "regions_growth"),
        ({"handles_per_second": 0.01}, "handles_growth"),
    ],
)
def test_a_slow_leak_is_found(gained, figure):
    assert figure in missed(samples(noise=5.0, **gained))


def test_latency_that_rises_is_found_and_latency_that_does_not_is_not():
    assert missed(samples(), verdicts(drift=0.3)) == {"p99_drift"}
    assert missed(samples(), verdicts(drift=-0.3)) == set()


def test_a_leak_is_measured_per_1000_requests_with_an_interval():
    figures = growth_figures(samples(mb_per_request=0.004, noise=2.0), [], RATE, SECONDS)
    assert figures["rss_mb_per_1000"] == pytest.approx(4.0, abs=0.1)
    assert figures["rss_mb_per_1000_low"] < 4.0 < figures["rss_mb_per_1000_high"]
    assert figures["p99_drift"] is None


def test_a_few_odd_samples_do_not_move_the_line():
    values = [100.0] * len(TIMES)
    values[10:40] = [900.0] * 30
    assert find_trend(TIMES, values).slope == pytest.approx(0.0, abs=1e-6)
    assert find_trend([0.0, 1.0], [1.0, 2.0]) is None


def test_windows_leave_out_what_was_not_answered_and_what_was_due_outside():
    outcomes = [
        Outcome("a", 5.0, 5.0, 5.1, "answered", 0),
        Outcome("b", 5.0, 5.0, 9.0, "deadline", 0),
        Outcome("c", 45.0, 45.0, 46.0, "answered", 0),
    ]
    (window,) = latency_windows(outcomes, 0.0, 40.0)
    assert (window.p50, window.p99) == (pytest.approx(100.0), pytest.approx(100.0))


def test_the_samples_count_processes_handles_and_regions(tmp_path):
    for name in ("veridict-1-a", "veridict-1-b", "veridict-2-c"):
        (tmp_path / name).write_bytes(bytes(100_000))
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()  # before that it may not run Python yet, and have next to no memory
        sample = take_sample(ProcessTree(child.pid), 3.0, ["veridict-1-*"], tmp_path)
        with Sampler(child.pid, 0.05) as sampler:
            while len(sampler.samples) < 3:
                pass
        child.communicate(b"\n")
    assert (sample.seconds, sample.regions, sample.processes) == (3.0, 2, 1)
    assert sample.shared_memory == pytest.approx(0.2, abs=0.02)
    assert sample.rss > sample.pss > 1
    assert sample.handles >= 3
    assert [s.seconds for s in sampler.samples] == sorted(s.seconds for s in sampler.samples)
    assert region_patterns(77)[1] == "veridict-slots-77-*"


@pytest.mark.parametrize("options", [["--seconds", "5"], ["--fraction", "0"], ["--thresholds", "missing.toml"]])
def test_options_that_cannot_be_used_are_a_usage_error(options, capsys):
    try:
        status = main(["soak", *options])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.live
def test_two_minutes_at_80_percent_of_the_capacity_leave_nothing_behind(tmp_path):
    """Capacity 10 s, warm-up 15 s, measured 60 s; the thresholds are those of a short run, for noisy machines."""
    plot, table, measured = (tmp_path / "out" / name for name in ("soak.png", "soak.md", "soak.json"))
    files = ("--plot", plot, "--markdown", table, "--json", measured)
    command = [sys.executable, "-m", "veridict.deploy.command", "soak", "--seconds", "60", "--warm-up", "15", *files]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert table.read_text().strip() == done.stdout.strip()
    run = json.loads(measured.read_text())
    assert run["sent"] == sum(run["counts"].values()) > 10
    assert len(run["samples"]) > 40
    assert run["figures"]["handles_growth"] is not None
