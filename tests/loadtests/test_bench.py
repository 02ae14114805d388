"""The benchmark's own arithmetic: blocks, rows, comparisons, tables, stages; nothing here is a speed limit."""

import argparse
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from veridict.forensics.decode import decode_image
from veridict.forensics.faces import find_faces
from veridict.loadtests import sample_images as pictures
from veridict.loadtests import tables as figures
from veridict.loadtests.bench import cli as bench
from veridict.loadtests.bench import forensics_cost, networks, serving, stages
from veridict.loadtests.bench.peers import FASTAPI_ONNX, PEERS, TEXTBOOK, TEXTBOOK_NLM
from veridict.loadtests.bench.subjects import Bare, Served, Subject
from veridict.loadtests.closed_loop import Block, RefusedError, drive
from veridict.loadtests.machine import Memory, ProcessTree, busy_seconds, installed_versions
from veridict.loadtests.rounds import Task, measure_tasks


def block(rate=10.0, latencies=(1.0, 2.0, 3.0), seconds=2.0, server=1.0, generator=0.5, rejected=0, memory=None):
    return Block(latencies, round(rate * seconds), rejected, seconds, generator, server, memory)


class Fake(Subject):
    """A subject that answers at once, and notes what happens to it."""

    def __init__(self, name="fake", serial=False):
        super().__init__(name, None)
        self.serial, self.events = serial, []

    @contextmanager
    def connect(self, data, batch=1):
        def call():
            self.events.append("call")
            time.sleep(0.002)
            return batch

        yield call

    def pause(self):
        self.events.append("pause")

    def resume(self):
        self.events.append("resume")


def parse(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def arguments(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("size", pictures.SIZES)
def test_a_photograph_has_its_size_and_a_face(size):
    image = decode_image(pictures.photograph(*pictures.SIZES[size]))
    assert (image.width, image.height) == pictures.SIZES[size]
    assert len(find_faces(image.pixels)) == 1


@pytest.mark.parametrize("count", pictures.FACES)
def test_a_crowd_has_as_many_faces_as_it_says(count):
    assert len(find_faces(decode_image(pictures.crowd(count)).pixels)) == count


def test_a_crowd_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="0 to 8"):
        pictures.crowd(9)


def test_the_closed_loop_counts_images_and_refusals_but_not_the_lead_in():
    opened, state = [], {"calls": 0}

    @contextmanager
    def connect():
        opened.append("open")

        def call():
            state["calls"] += 1
            time.sleep(0.01)
            if state["calls"] % 5 == 0:
                raise RefusedError
            return 3

        yield call
        opened.append("closed")

    found = drive(connect, 2, 0.3, lead=0.2)
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
            raise RefusedError

        yield call

    with pytest.raises(RuntimeError, match="no request"):
        drive(connect, 1, 0.05, lead=0.0)


def test_a_failing_call_ends_the_block():
    @contextmanager
    def connect():
        def call():
            raise OSError("gone")

        yield call

    with pytest.raises(OSError, match="gone"):
        drive(connect, 2, 0.2, lead=0.0)


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


def test_rounds_alternate_and_only_one_subject_runs_at_a_time():
    first, second = Fake("a"), Fake("b")
    tasks = [Task(first, "x", b"", 1), Task(second, "x", b"", 2), Task(second, "y", b"", 1, once=True)]
    results = measure_tasks(tasks, 2, 0.02)
    assert [len(results[task]) for task in tasks] == [2, 2, 1]
    for subject in (first, second):
        running = False
        for event in subject.events:
            assert event != "call" or running
            running = event == "resume" or (running and event != "pause")
        assert subject.events[-1] == "resume"


def test_a_row_is_made_of_medians_over_rounds_and_percentiles_over_requests():
    blocks = [
        block(10, (1.0, 2.0), memory=Memory(100, 80), server=1.0),
        block(30, (3.0, 4.0), memory=Memory(120, 90), server=3.0, rejected=2),
        block(20, (5.0, 6.0), memory=Memory(110, 85), server=2.0),
    ]
    row = figures.summarise("served", "640x480", 8, blocks)
    assert (row.images_per_second, row.p50, row.rejected) == (20, 3.5, 2)
    assert (row.cores, row.cpu, row.rss, row.pss) == (1.0, 50.0, 120, 90)
    assert row.generator == pytest.approx(1e3 * 0.5 / 40)
    assert row.p99 == pytest.approx(np.percentile([1, 2, 3, 4, 5, 6], 99))


def test_the_bare_loop_spends_the_generators_time_and_has_no_memory_of_its_own():
    row = figures.summarise("bare", "640x480", 1, [block(server=None, generator=3.0)], in_process=True)
    assert (row.cores, row.rss, row.generator) == (1.5, None, None)
    assert parse(figures.serving_table([row]))[2][-5:] == ["1.50", "150.0", "-", "-", "-"]


def test_ratios_are_drawn_round_by_round():
    # The whole machine is slow in the second round: the ratio does not see it.
    ours, theirs = [block(20), block(10), block(24)], [block(10), block(5), block(8)]
    ratio = figures.compare_rates("us / them", "640x480", ours, theirs, 2.0)
    assert (ratio.value, ratio.lowest, ratio.highest, ratio.met) == (2.0, 2.0, 3.0, True)
    assert figures.compare_rates("", "", ours, theirs, 2.01).met is False


def test_a_side_measured_once_counts_in_every_round():
    assert figures.compare_rates("", "", [block(20), block(10), block(30)], [block(10)], 1).value == 2.0


def test_overhead_is_a_difference_of_medians_with_an_upper_bound():
    ours, theirs = [block(latencies=(4.0, 5.0, 90.0))], [block(latencies=(1.0, 2.0, 3.0))]
    ratio = figures.compare_medians("overhead", "640x480", ours, theirs, 5.0)
    assert (ratio.value, ratio.met) == (3.0, True)
    assert figures.compare_medians("", "", ours, theirs, 2.9).met is False
    assert parse(figures.ratio_table([ratio]))[2] == [
        "overhead",
        "640x480",
        "3.00 ms",
        "3.00 to 3.00",
        "at most 5 ms",
        "yes",
    ]


def test_noise_names_the_median_and_the_worst_block():
    blocks = [Block((1.0,), 1, 0, 2.0, 0, 0, None, other) for other in (0.2, 0.4, 3.0)]
    assert "0.20 cores busy in the median block and 1.50 in the worst" in figures.describe_noise(blocks)


def test_serial_peers_are_saturated_by_two_clients_and_the_slowest_is_measured_once():
    def subject(kind, name, serial=False):
        made = kind.__new__(kind)
        made.name, made.serial, made.overlap = name, serial, 1
        return made

    peers = [Fake(TEXTBOOK.name, True), Fake(TEXTBOOK_NLM.name, True), Fake(FASTAPI_ONNX.name)]
    tasks = serving.plan_serving(subject(Served, "served"), [subject(Bare, "bare")], peers, ["640x480"], [1, 8])
    assert [(t.subject.name, t.concurrency, t.batch, t.once) for t in tasks] == [
        ("bare", 1, 1, False),
        ("served", 1, 1, False),
        ("served", 8, 1, False),
        ("served", 4, serving.BARE_BATCH, False),
        (TEXTBOOK.name, 1, 1, False),
        (TEXTBOOK.name, 2, 1, False),
        (TEXTBOOK_NLM.name, 1, 1, True),
        (FASTAPI_ONNX.name, 1, 1, False),
        (FASTAPI_ONNX.name, 8, 1, False),
    ]


def test_comparisons_take_the_best_of_each_side_and_leave_out_who_did_not_run():
    served = Served.__new__(Served)
    served.name = "Veridict on Triton"
    results = {
        Task(Fake("bare loop, one at a time"), "s", b"", 1): [block(20, (1.0,))],
        Task(Fake("bare loop, batches of 8"), "s", b"", 1): [block(40)],
        Task(Fake("bare loop, batches of 8, 2 at once"), "s", b"", 2): [block(50)],
        Task(served, "s", b"", 1): [block(25, (4.0,))],
        Task(served, "s", b"", 16): [block(45, (300.0,))],
        Task(served, "s", b"", 4, serving.BARE_BATCH): [block(49, (600.0,))],
        Task(Fake(FASTAPI_ONNX.name), "s", b"", 1): [block(30)],
        Task(Fake(FASTAPI_ONNX.name), "s", b"", 16): [block(60)],
        Task(served, "other", b"", 16): [block(1000)],
    }
    found = {ratio.what: ratio for ratio in serving.compare(results, "s")}
    assert found["served at saturation / best bare loop in batches"].value == pytest.approx(0.9)
    assert found["served at saturation / best bare loop in batches"].met
    batched = "served, 8 images per request / best bare loop in batches of 8"
    assert found[batched].value == pytest.approx(0.98)
    assert found["served at saturation / bare loop, one at a time"].value == pytest.approx(2.25)
    assert found["p50 of serving at concurrency 1 - bare computation"].value == pytest.approx(3.0)
    assert found[f"served / {FASTAPI_ONNX.name}, at saturation"].value == pytest.approx(0.75)
    assert not found[f"served / {FASTAPI_ONNX.name}, at saturation"].met
    assert len(found) == 5
    assert [row.pipeline for row in serving.rows_of({t: b for t, b in results.items() if t.batch > 1})] == [
        "Veridict on Triton, 8 per request"
    ]


def test_a_sweep_is_relative_to_its_first_line():
    results = {Task(Fake(), "small", b"", 16): [block(40)], Task(Fake(), "large", b"", 16): [block(10)]}
    rows = parse(serving.sweep_table("megapixels", results))
    assert rows[0][0] == "megapixels"
    assert rows[2][2:4] == ["40.0", "25.0"]
    assert [row[-1] for row in rows[2:]] == ["1.00", "4.00"]
    assert {len(row) for row in rows} == {7}


def test_stages_add_up_to_the_request():
    milli = 1_000_000

    def counters(wall, queue=0, images=10):
        return stages.Counters(images, images, images, *(milli * images * v for v in (queue, wall, wall)))

    spent = {
        "preprocess": counters(1, 1),
        "clip_image": counters(6),
        "face_cnn": counters(3, 1),
        "fusion": counters(1),
    }
    own = {"decode": 2.0, "shrink": 1.0, "forensics": 1.0, "faces": 3.0, "view": 0.5}
    own |= {"queue": 0.3, "grouping": 0.2, "networks": 7.0}
    profile = stages.account("s", own, spent, 10, 20.0)
    assert sum(profile.stages.values()) == pytest.approx(profile.total)
    assert profile.stages["preprocess: taking in, waiting for a thread and for others"] == pytest.approx(1.5)
    assert profile.stages["calling them"] == pytest.approx(1.0)
    assert profile.stages["at the same time (encoder and face CNN)"] == pytest.approx(-4.0)
    # The networks took 7 as the first step saw them; of the queues, 1 is preprocess's own.
    rest = 20 - (7.5 + 1.5 + 7 + 1 + 1)
    assert profile.stages["gRPC, ensemble scheduling, handing on, client"] == pytest.approx(rest)
    rows = parse(stages.profile_table([profile]))
    assert rows[2] == ["decode", "2.00 (10%)"]
    assert rows[-1][1] == "20.00"


def test_counters_subtract():
    assert stages.Counters(5, 6, 4, 9, 8, 7) - stages.Counters(1, 2, 3, 4, 5, 6) == stages.Counters(4, 4, 1, 5, 3, 1)


def test_forensics_are_compared_at_one_size_and_their_growth_with_that_of_the_pixels():
    pixels = 4000 * 3000 / (1920 * 1080)
    small = forensics_cost.Times([2.0, 2.0], [1.0, 1.0], [10.0, 6.0], 500.0)
    large = forensics_cost.Times([2.0 * pixels, pixels], [1.0, 1.0], [60.0, 60.0], 3000.0)
    files = dict(zip(forensics_cost.compared_pictures(), (small, large, small, small), strict=True))
    speed, growth, detailed = forensics_cost.compare_forensics(files)
    assert (speed.value, speed.lowest, speed.highest, speed.met) == (4.0, 3.0, 5.0, True)
    assert (growth.value, growth.met) == (pytest.approx(0.75), False)
    assert (detailed.value, detailed.met) == (pytest.approx(1 / pixels), True)
    table = parse(forensics_cost.forensics_table({"1920x1080": small}))
    assert table[2] == ["1920x1080", "2.00", "1.00", "8.0", "4.0", "500", "250"]


def test_forensics_are_timed_both_ways_on_one_thread_which_is_given_back():
    before = cv2.getNumThreads()
    found = forensics_cost.time_forensics({"small": pictures.photograph(640, 480)}, 2, 0.01)["small"]
    assert len(found.ours) == len(found.textbook) == 2
    assert min(found.ours) >= min(found.decode) > 0
    assert found.nlm > max(found.textbook) > 0
    assert cv2.getNumThreads() == before


def test_runs_are_timed_in_turns_per_row():
    calls = []
    runs = {name: lambda rows, name=name: calls.append(name) for name in ("a", "b")}
    found = networks.time_in_turns(runs, np.zeros((4, 2), np.uint8), 0.01)
    assert set(found) == {"a", "b"}
    turn = networks.TURN
    assert calls[: 2 + 2 * turn] == ["a", "b"] + ["a"] * turn + ["b"] * turn


def test_the_command_repeats_the_run_without_naming_files(tmp_path):
    assert bench.command_line(arguments()) == "veridict bench"
    words = ["--seconds", "0.5", "--sizes", "640x480", "--no-peers", "--output", str(tmp_path / "x.md"), "--json"]
    assert bench.command_line(arguments(*words)) == "veridict bench --seconds 0.5 --sizes 640x480 --no-peers"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seconds", "0"), "--seconds must be positive"),
        (("--rounds", "0"), "--rounds"),
        (("--concurrency", "0"), "--concurrency must be at least 1"),
        (("--output", "/no/such/folder/x.md"), "there is no folder"),
    ],
)
def test_unusable_arguments_end_with_status_2(words, message, capsys):
    assert bench.run(arguments(*words)) == 2
    assert message in capsys.readouterr().err


def test_the_gpu_profile_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(bench, "describe_gpus", lambda: "")
    assert bench.run(arguments("--profile", "gpu")) == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_report_says_what_ran_where():
    report = bench.Report("veridict bench --rounds 1")
    report.ratios.append(figures.Ratio("a / b", "s", 2.0, 1.0, 3.0, 1.5))
    report.add("Comparisons", figures.ratio_table(report.ratios))
    text, document = report.to_markdown(), json.loads(report.to_json())
    assert text.startswith("# Serving benchmark\n\n`veridict bench --rounds 1`, 20")
    assert f"numpy {np.__version__}" in text
    assert "\n## Comparisons\n" in text
    assert document["ratios"][0]["met"] is True
    assert document["schema"] == "veridict-bench/1"


def test_versions_leave_out_what_is_not_installed():
    assert set(installed_versions(["numpy", "no-such-distribution"])) == {"numpy"}


def test_gpus_run_no_peer_whose_networks_cannot_go_there():
    assert serving.choose_peers(gpu=False) == list(PEERS)
    assert serving.choose_peers(gpu=True) == [TEXTBOOK, FASTAPI_ONNX]
