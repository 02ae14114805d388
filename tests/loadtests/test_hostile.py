"""``veridict hostile``: options, what it writes, and what it counts as a fault of a server."""

import subprocess
import sys

import pytest

from veridict.client import DeadlineError, InvalidImageError, Result
from veridict.deploy.command import main
from veridict.loadtests.hostile.assemble import picture, save
from veridict.loadtests.hostile.kinds import judged, refused
from veridict.loadtests.hostile.live import LiveResult, fault_of
from veridict.loadtests.hostile.measure import Measured
from veridict.loadtests.hostile.mutant_run import Finding, MutantResult
from veridict.loadtests.hostile.report import document, images_section, list_section, live_section, mutants_section


@pytest.mark.parametrize("options", [["--url", "a:1", "--serve"], ["--tls"], ["--mutants", "5", "--serve"]])
def test_options_that_exclude_each_other_are_usage_errors(capsys, options):
    assert main(["hostile", *options]) == 2
    assert "veridict hostile:" in capsys.readouterr().err


@pytest.mark.slow
def test_mutants_by_command(tmp_path):
    report = tmp_path / "mutants.md"
    arguments = ["hostile", "--mutants", "60", "--seed", "9", "--workers", "2", "--save", str(tmp_path / "found")]
    assert main([*arguments, "--report", str(report)]) == 0
    assert "60 mutants of seed 9" in report.read_text()
    assert not (tmp_path / "found").exists()


@pytest.mark.slow
def test_the_fuzzer_begins_with_the_small_kinds_and_runs(tmp_path):
    pytest.importorskip("atheris", reason="the extra fuzz is not installed")
    module = [sys.executable, "-W", "ignore", "-m", "veridict.loadtests.hostile.fuzz"]
    subprocess.run([*module, "--write-corpus", str(tmp_path / "kinds")], check=True)
    sizes = [path.stat().st_size for path in (tmp_path / "kinds").iterdir()]
    assert len(sizes) >= 150
    assert 0 < min(sizes) <= max(sizes) <= 3000
    (tmp_path / "new").mkdir()
    done = subprocess.run([*module, "new", "-runs=20", "-max_len=500"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 20 runs" in done.stderr


def test_the_report_names_every_fault():
    sound = Measured("a sound kind", 10, "judged", "", 12.0, 14.0, 3.0)
    wrong = Measured("a wrong kind", 10, "crashed", "KeyError: 6", 1.0, 1.0, 1.0)
    slow = Measured("a slow kind", 10, "judged", "", 900.0, 950.0, 1.0)
    large = Measured("a large kind", 10, "judged", "", 900.0, 900.0, 300.0, large=True)
    text = images_section([sound, wrong, slow, large])
    assert "4 kinds, 1 wrong answers, 1 above 250 ms of CPU time or 64 MiB" in text
    assert "- a wrong kind: KeyError: 6" in text
    assert "- a slow kind" in text
    assert "a sound kind | 10 | `judged` | 12.0 | 14.0 | 3.0" in list_section([sound])
    found = MutantResult(7, findings=[Finding(3, b"", "took more than 2 s of CPU time")])
    assert "- mutant 3: took more than 2 s" in mutants_section(found, 1)
    live = live_section(LiveResult(5, 2, 0, ["the neighbour PNG of x: another verdict"]), own=True)
    assert "- the neighbour PNG of x" in live
    assert "the same before and after" not in live
    assert "`veridict hostile`" in document([text], "veridict hostile")


def test_an_answer_of_a_server_is_held_to_the_kind():
    kind = refused("cut", b"", "truncated")
    assert fault_of(kind, Result(0, None, None, InvalidImageError("cut", code="image.truncated"))) == ""
    assert fault_of(kind, Result(0, None, None, InvalidImageError("cut", code="image.corrupt")))
    assert "DeadlineError" in fault_of(judged("x", b"", picture()), Result(0, None, None, DeadlineError("late")))


def test_a_kind_says_what_is_wrong_with_its_pixels():
    kind = judged("x", save(picture(), "PNG"), picture(), 1.0)
    assert kind.fault_of_pixels(picture()) == ""
    assert "differ by" in kind.fault_of_pixels(255 - picture())
    assert "shape" in kind.fault_of_pixels(picture()[:5])
    assert kind.fault_of_size(96, 80, 1) == ""
    assert kind.fault_of_size(96, 80, 2)
    assert "a verdict on 96x80" in kind.fault_of_refusal("image.corrupt")
