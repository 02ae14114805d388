"""A run from its command line to its summary, as far as no Ray is needed."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from veridict.deploy.backfill.chunks import ChunkWorker, Task
from veridict.deploy.backfill.cli import add_arguments, read_settings
from veridict.deploy.backfill.plan import Request
from veridict.deploy.backfill.progress import Progress, every
from veridict.deploy.backfill.ray_session import Pool
from veridict.deploy.backfill.results import PartFacts, Totals
from veridict.deploy.backfill.run import run_backfill
from veridict.deploy.command import main

from .conftest import MODELS, StubJudge


def parse(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--input", "in", "--output", "out", *words])


def test_a_complete_backfill_is_only_summed_up(archive, output, plan):
    worker = ChunkWorker(output, plan, StubJudge())
    for chunk in range(plan.chunks):
        worker.judge_chunk(Task(chunk))
    worker.close()
    said = []
    summary = run_backfill(output, Request((str(archive),)), StubJudge(), Pool(1), say=said.append)
    assert summary == json.loads(Path(output, "summary.json").read_text())
    assert (summary["complete"], summary["images"], summary["done"]) == (True, 10, 10)
    assert summary["errors"] == {"image.corrupt": 1}
    assert sum(summary["verdicts"].values()) == 9
    assert (summary["plan"], summary["models"]) == (plan.id, vars(MODELS))
    assert said == [
        f"backfill: plan {plan.id}, 10 images in 3 chunks, 0 to judge",
        "backfill: 10 of 10 images (100.0%), 1 with an error",
    ]


def test_progress_says_what_is_done_how_fast_and_how_long_it_takes(plan):
    time = [0.0]
    totals = Totals.of([PartFacts(plan.id, 0, 4, {"real": 4})])
    progress = Progress(plan, totals, lambda: time[0])
    assert progress.line() == "backfill: 4 of 10 images (40.0%), 0 with an error"
    progress.begin()
    time[0] = 2.0
    progress.add(PartFacts(plan.id, 1, 4, {"real": 3}, 0, {"image.corrupt": 1}))
    assert progress.line() == "backfill: 8 of 10 images (80.0%), 2.0 images/s, 1 with an error, 1 s left"
    assert progress.summary()["this_run"] == {"images": 4, "seconds": 2.0, "images_per_second": 2.0}
    assert progress.summary()["complete"] is False


@pytest.mark.parametrize(("images", "left"), [(1_000, "8 min left"), (100_000, "13.9 h left")])
def test_the_time_left_has_the_unit_that_fits(plan, images, left):
    time = [0.0]
    progress = Progress(replace(plan, images=images), Totals(), lambda: time[0])
    time[0] = 2.0
    progress.add(PartFacts(plan.id, 0, 4))
    assert progress.line().endswith(left)


def test_lines_are_said_while_the_work_goes_on():
    said = []
    with every(0.001, lambda: said.append(1)):
        while len(said) < 3:
            pass
    count = len(said)
    assert count >= 3


def test_requests_in_flight_are_spread_over_the_workers():
    judge, pool = read_settings(parse("--in-flight", "50", "--workers", "3", "--url", "a:1,b:1"))
    assert (judge.in_flight, judge.client.url, judge.client.deadline) == (17, "a:1,b:1", 60.0)
    assert pool == Pool(3)
    assert read_settings(parse("--policy", "strict"))[0].client.policy == "strict"
    assert read_settings(parse("--in-flight", "1"))[1].workers == 1


def test_in_this_process_the_cores_are_spread_over_the_workers(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    judge, pool = read_settings(parse("--in-process", "--ray-address", "auto"))
    assert (judge.client, judge.threads, pool) == (None, 4, Pool(4, 4, "auto"))
    assert read_settings(parse("--in-process", "--threads", "16"))[1] == Pool(1, 16)


def test_options_that_do_not_fit_are_refused(archive, tmp_path, capsys):
    paths = ["--input", str(archive), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        main(["backfill", *paths, "--threads", "2"])
    assert "--threads is for --in-process" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["backfill", *paths, "--in-process", "--policy", "strict"])
    assert "--policy names a policy of a service" in capsys.readouterr().err
    assert main(["backfill", *paths, "--in-process", "--repository", str(tmp_path)]) == 1
    assert "cannot judge" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
