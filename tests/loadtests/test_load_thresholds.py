"""Thresholds: what passes, what fails, and what is wrong with the file; and the report that shows it."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from veridict.deploy.command import main
from veridict.deploy.manifest import default_repository
from veridict.loadtests.load.arrivals import PROFILES, schedule_phases
from veridict.loadtests.load.cli import plan_requests
from veridict.loadtests.load.generator import LocustStatistics
from veridict.loadtests.load.outcomes import Outcome, compute_figures, figure_names, reconcile
from veridict.loadtests.load.perf_analyzer import find_binary, input_data
from veridict.loadtests.load.report import bin_width, render_report, ticks
from veridict.loadtests.load.result import LoadTestResult, format_result, to_document
from veridict.loadtests.load.thresholds import (
    DEFAULT_FILE,
    ThresholdError,
    check_thresholds,
    format_checks,
    load_thresholds,
)


def read(tmp_path, text, profile="steady"):
    path = tmp_path / "t.toml"
    path.write_text(text)
    return load_thresholds(path, profile, ["p99_ms", "lost"])


@pytest.mark.parametrize("profile", PROFILES)
def test_the_checked_in_file_covers_every_profile(profile):
    names = {t.figure for t in load_thresholds(DEFAULT_FILE, profile, figure_names())}
    assert {"lost", "duplicated", "mismatched", "errors"} < names


def test_the_checked_in_file_holds_what_is_promised():
    overload = {t.figure: t for t in load_thresholds(DEFAULT_FILE, "overload", figure_names())}
    assert overload["goodput_over_capacity"].minimum == 0.9
    assert overload["rejection_p99_ms"].maximum == 50
    assert overload["recovery_seconds"].maximum == 10
    assert overload["lost"].maximum == overload["duplicated"].maximum == 0
    steady = {t.figure: t for t in load_thresholds(DEFAULT_FILE, "steady", figure_names())}
    assert steady["p99_over_p50"].maximum == 4


def test_bounds_are_inclusive_and_a_profile_overrides_all(tmp_path):
    thresholds = read(tmp_path, "[all]\nlost = {max = 0}\np99_ms = {max = 5}\n[steady]\np99_ms = {min = 1, max = 9}\n")
    for value, passed in ((9.0, True), (9.1, False), (1.0, True), (0.9, False)):
        assert [c.passed for c in check_thresholds(thresholds, {"lost": 0.0, "p99_ms": value})] == [True, passed]


def test_a_figure_that_was_not_measured_fails_unless_optional(tmp_path):
    thresholds = read(tmp_path, "[steady]\nlost = {max = 0}\np99_ms = {max = 9, optional = true}\n")
    checks = check_thresholds(thresholds, {"lost": None, "p99_ms": None})
    assert [c.passed for c in checks] == [False, True]
    assert "| lost | <= 0 | - | FAIL |" in format_checks(checks)
    assert "| p99_ms | <= 9 | - | n/a |" in format_checks(checks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ramp]\n", r"no table \[steady\]"),
        ("[steady\n", "not a TOML"),
        ("[steady]\np98 = {max = 1}\n", "figure 'p98'"),
        ("[steady]\nlost = 0\n", "needs min or max"),
        ("[steady]\nlost = {optional = true}\n", "needs min or max"),
        ("[steady]\nlost = {most = 1}\n", "needs min or max"),
        ("[steady]\nlost = {max = 'none'}\n", "must be numbers"),
        ("[steady]\nlost = {max = true}\n", "must be numbers"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, message):
    with pytest.raises(ThresholdError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "options",
    [
        ["--thresholds", "no-such-file.toml"],
        ["--url", "http://x:1"],
        ["--throttle", "0.5"],
        ["--tls"],
        ["--images", "no-such-image.jpg"],
    ],
)
def test_usage_errors_exit_2(options, capsys):
    assert main(["loadtest", "steady", *options]) == 2
    assert "veridict loadtest: " in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--capacity", "-3"], ["--scale", "0"], ["--deadline", "0"], ["--users", "0"]])
def test_numbers_out_of_range_are_usage_errors(options, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["loadtest", "steady", *options])
    assert options[0] in capsys.readouterr().err


def test_no_server_exits_1(capsys):
    assert main(["loadtest", "steady", "--url", "127.0.0.1:9"]) == 1
    assert "no detector at 127.0.0.1:9" in capsys.readouterr().err


@pytest.fixture
def finished():
    phases = schedule_phases(PROFILES["overload"].phases, 10, 0.2)
    sent = plan_requests([n / 4 for n in range(128)], 1)
    kinds = ["answered", "answered", "rejected", "deadline"]
    got = [
        Outcome(r.id, r.due, r.due, r.due + (0.003 if n % 4 == 2 else 0.4), kinds[n % 4], 0) for n, r in enumerate(sent)
    ]
    found = compute_figures(sent, got, phases, [()], 10.0)
    checks = check_thresholds(load_thresholds(DEFAULT_FILE, "overload", figure_names()), found)
    statistics = LocustStatistics("<photo>.jpg", 128, 64, 400.0, 410.0, 4.0)
    return LoadTestResult(
        "overload", "2 cores", 10.0, True, phases, got, reconcile(sent, got), found, checks, [statistics]
    )


def test_report_shows_every_threshold_and_fetches_nothing(finished):
    html = render_report(finished)
    for c in finished.checks:
        assert c.threshold.figure in html
    assert ">FAIL</span></h1>" in html
    assert "&lt;photo&gt;.jpg" in html
    assert not re.search(r"(src|href)=|<script|@import|url\(", html)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(svg)
    assert "rejected: 32" in html


def test_report_draws_every_request(finished):
    html = render_report(finished)
    bars = re.findall(r'height="([\d.]+)" fill="#f4a582"', html)
    assert len(bars) == 32  # each bin of this run holds at most one rejection
    assert len(set(bars)) == 1
    assert len(re.findall("<polyline", html)) == 3


def test_text_and_document_agree(finished):
    text, document = format_result(finished), json.loads(json.dumps(to_document(finished)))
    assert not finished.passed
    assert text.endswith("FAIL")
    assert "128 sent: 64 answered, 32 rejected, 32 deadline; 0 lost, 0 duplicated" in text
    assert document["requests"]["counts"]["rejected"] == 32
    assert [t["passed"] for t in document["thresholds"]] == [c.passed for c in finished.checks]


def test_axes_have_round_numbers():
    assert ticks(87) == [0, 20, 40, 60, 80]
    assert ticks(1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert bin_width(160) == 1
    assert bin_width(20) == pytest.approx(0.2)
    assert bin_width(0.5) == pytest.approx(0.1)


def test_perf_analyzer_data_is_length_and_bytes():
    import base64

    (row,) = json.loads(input_data([b"abc"]))["data"]
    assert base64.b64decode(row["IMAGE"]["content"]["b64"]) == b"\x03\0\0\0abc"
    assert row["IMAGE"]["shape"] == [1]
    with pytest.raises(ValueError, match="no image"):
        input_data([])


def test_perf_analyzer_command_is_printed_where_there_is_no_binary(tmp_path, monkeypatch, capsys, encode, cat):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("veridict.loadtests.load.perf_analyzer.sysconfig.get_path", lambda name: str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(encode(cat))
    data = tmp_path / "data.json"
    assert main(["perf-analyzer", "--images", str(tmp_path / "a.jpg"), "--data", str(data), "--request-rate", "5"]) == 0
    out = capsys.readouterr()
    assert out.out.startswith("perf_analyzer -m detector ")
    assert f"--input-data={data}" in out.out
    assert "--request-rate-range=5" in out.out
    assert "no perf_analyzer was found" in out.err
    assert len(json.loads(data.read_text())["data"]) == 1
    assert find_binary(tmp_path / "none") is None
    assert main(["perf-analyzer", "--images", str(tmp_path / "a.jpg"), "--binary", str(tmp_path / "none")]) == 2
    assert main(["perf-analyzer", "--images", str(tmp_path / "missing.jpg")]) == 2


def test_model_analyzer_profiles_models_that_exist():
    settings = yaml.safe_load((DEFAULT_FILE.parent / "model_analyzer.yaml").read_text())
    served = {path.parent.name for path in default_repository().glob("*/config.pbtxt")}
    assert set(settings["profile_models"]) | set(settings["cpu_only_composing_models"]) <= served
    assert settings["run_config_search_mode"] == "quick"  # the only mode for ensembles
