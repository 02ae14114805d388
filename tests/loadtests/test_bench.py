"""The benchmark's arithmetic: blocks, rows, comparisons, tables and stages. No test here asserts on speed."""

import argparse
import json

import cv2
import numpy as np
import pytest

from veridict.loadtests import sample_images, tables
from veridict.loadtests.bench import cli as bench
from veridict.loadtests.bench import forensics_cost, known_content, networks, serving, stages
from veridict.loadtests.bench.peers import FASTAPI_ONNX, PEERS, TEXTBOOK, TEXTBOOK_NLM
from veridict.loadtests.bench.pipelines import InProcessPipeline, TritonPipeline
from veridict.loadtests.bench.report import Report
from veridict.loadtests.closed_loop import Block
from veridict.loadtests.interleaved import Case, measure_interleaved
from veridict.loadtests.machine import Memory, installed_versions

from .conftest import Fake, block


def parse(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def arguments(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


def test_rounds_alternate_and_only_one_pipeline_runs_at_a_time():
    first, second = Fake("a"), Fake("b")
    cases = [Case(first, "x", b"", 1), Case(second, "x", b"", 2), Case(second, "y", b"", 1, first_round_only=True)]
    results = measure_interleaved(cases, 2, 0.02)
    assert [len(results[case]) for case in cases] == [2, 2, 1]
    for pipeline in (first, second):
        running = False
        for event in pipeline.events:
            assert event != "call" or running
            running = event == "resume" or (running and event != "pause")
        assert pipeline.events[-1] == "resume"


def test_a_row_is_made_of_medians_over_rounds_and_percentiles_over_requests():
    blocks = [
        block(10, (1.0, 2.0), memory=Memory(100, 80), server=1.0),
        block(30, (3.0, 4.0), memory=Memory(120, 90), server=3.0, rejected=2),
        block(20, (5.0, 6.0), memory=Memory(110, 85), server=2.0),
    ]
    row = tables.summarise_blocks("served", "640x480", 8, blocks)
    assert (row.images_per_second, row.p50, row.rejected) == (20, 3.5, 2)
    assert (row.cores, row.cpu, row.rss, row.pss) == (1.0, 50.0, 120, 90)
    assert row.generator == pytest.approx(1e3 * 0.5 / 40)
    assert row.p99 == pytest.approx(np.percentile([1, 2, 3, 4, 5, 6], 99))


def test_the_in_process_loop_uses_the_generators_cpu_time_and_has_no_memory_figures():
    row = tables.summarise_blocks("in-process", "640x480", 1, [block(server=None, generator=3.0)], in_process=True)
    assert (row.cores, row.rss, row.generator) == (1.5, None, None)
    assert parse(tables.serving_table([row]))[2][-5:] == ["1.50", "150.0", "-", "-", "-"]


def test_ratios_are_drawn_round_by_round():
    # The whole machine is slow in the second round: the ratio does not see it.
    ours, theirs = [block(20), block(10), block(24)], [block(10), block(5), block(8)]
    ratio = tables.compare_rates("us / them", "640x480", ours, theirs, 2.0)
    assert (ratio.value, ratio.lowest, ratio.highest, ratio.met) == (2.0, 2.0, 3.0, True)
    assert tables.compare_rates("", "", ours, theirs, 2.01).met is False


def test_a_side_measured_once_counts_in_every_round():
    assert tables.compare_rates("", "", [block(20), block(10), block(30)], [block(10)], 1).value == 2.0


def test_overhead_is_a_difference_of_medians_with_an_upper_bound():
    ours, theirs = [block(latencies=(4.0, 5.0, 90.0))], [block(latencies=(1.0, 2.0, 3.0))]
    ratio = tables.compare_medians("overhead", "640x480", ours, theirs, 5.0)
    assert (ratio.value, ratio.met) == (3.0, True)
    assert tables.compare_medians("", "", ours, theirs, 2.9).met is False
    assert parse(tables.comparison_table([ratio]))[2] == [
        "overhead",
        "640x480",
        "3.00 ms",
        "3.00 to 3.00",
        "at most 5 ms",
        "yes",
    ]


def test_the_background_load_names_the_median_and_the_worst_block():
    blocks = [Block((1.0,), 1, 0, 2.0, 0, 0, None, other) for other in (0.2, 0.4, 3.0)]
    assert "0.20 cores busy in the median block and 1.50 in the worst" in tables.describe_background_load(blocks)


def test_serial_peers_are_saturated_by_two_clients_and_the_slowest_is_measured_once():
    def pipeline(kind, name, serial=False):
        made = kind.__new__(kind)
        made.name, made.serial, made.overlap = name, serial, 1
        return made

    peers = [Fake(TEXTBOOK.name, True), Fake(TEXTBOOK_NLM.name, True), Fake(FASTAPI_ONNX.name)]
    cases = serving.plan_serving_cases(
        pipeline(TritonPipeline, "served"), [pipeline(InProcessPipeline, "in-process")], peers, ["640x480"], [1, 8]
    )
    assert [(t.pipeline.name, t.concurrency, t.batch, t.first_round_only) for t in cases] == [
        ("in-process", 1, 1, False),
        ("served", 1, 1, False),
        ("served", 8, 1, False),
        ("served", 4, serving.IN_PROCESS_BATCH, False),
        (TEXTBOOK.name, 1, 1, False),
        (TEXTBOOK.name, 2, 1, False),
        (TEXTBOOK_NLM.name, 1, 1, True),
        (FASTAPI_ONNX.name, 1, 1, False),
        (FASTAPI_ONNX.name, 8, 1, False),
    ]


def test_comparisons_take_the_best_of_each_side_and_leave_out_who_did_not_run():
    served = TritonPipeline.__new__(TritonPipeline)
    served.name = "Veridict on Triton"
    results = {
        Case(Fake("in-process loop, one at a time"), "s", b"", 1): [block(20, (1.0,))],
        Case(Fake("in-process loop, batches of 8"), "s", b"", 1): [block(40)],
        Case(Fake("in-process loop, batches of 8, 2 at once"), "s", b"", 2): [block(50)],
        Case(served, "s", b"", 1): [block(25, (4.0,))],
        Case(served, "s", b"", 16): [block(45, (300.0,))],
        Case(served, "s", b"", 4, serving.IN_PROCESS_BATCH): [block(49, (600.0,))],
        Case(Fake(FASTAPI_ONNX.name), "s", b"", 1): [block(30)],
        Case(Fake(FASTAPI_ONNX.name), "s", b"", 16): [block(60)],
        Case(served, "other", b"", 16): [block(1000)],
    }
    found = {ratio.what: ratio for ratio in serving.compare_pipelines(results, "s")}
    assert found["served at saturation / best in-process loop in batches"].value == pytest.approx(0.9)
    assert found["served at saturation / best in-process loop in batches"].met
    batched = "served, 8 images per request / best in-process loop in batches of 8"
    assert found[batched].value == pytest.approx(0.98)
    assert found["served at saturation / in-process loop, one at a time"].value == pytest.approx(2.25)
    assert found["p50 served at concurrency 1 - p50 of the in-process loop"].value == pytest.approx(3.0)
    assert found[f"served / {FASTAPI_ONNX.name}, at saturation"].value == pytest.approx(0.75)
    assert not found[f"served / {FASTAPI_ONNX.name}, at saturation"].met
    assert len(found) == 5
    assert [row.pipeline for row in serving.summarise_results({t: b for t, b in results.items() if t.batch > 1})] == [
        "Veridict on Triton, 8 per request"
    ]


def test_a_sweep_is_relative_to_its_first_line():
    results = {Case(Fake(), "small", b"", 16): [block(40)], Case(Fake(), "large", b"", 16): [block(10)]}
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
    profile = stages.attribute_latency("s", own, spent, 10, 20.0)
    assert sum(profile.stages.values()) == pytest.approx(profile.total)
    assert profile.stages["preprocess: intake, waiting for a thread and for a batch"] == pytest.approx(1.5)
    assert profile.stages["overhead of calling both networks"] == pytest.approx(1.0)
    assert profile.stages["overlap of CLIP encoder and face CNN"] == pytest.approx(-4.0)
    # The networks took 7 as the first step saw them; of the queues, 1 is preprocess's own.
    rest = 20 - (7.5 + 1.5 + 7 + 1 + 1)
    assert profile.stages["gRPC, ensemble scheduling, data transfer, client"] == pytest.approx(rest)
    rows = parse(stages.stage_table([profile]))
    assert rows[2] == ["decode", "2.00 (10%)"]
    assert rows[-1][1] == "20.00"


def test_counters_subtract():
    assert stages.Counters(5, 6, 4, 9, 8, 7) - stages.Counters(1, 2, 3, 4, 5, 6) == stages.Counters(4, 4, 1, 5, 3, 1)


def test_forensics_are_compared_at_one_size_and_their_growth_with_that_of_the_pixels():
    pixels = 4000 * 3000 / (1920 * 1080)
    small = forensics_cost.ForensicsTimes([2.0, 2.0], [1.0, 1.0], [10.0, 6.0], 500.0)
    large = forensics_cost.ForensicsTimes([2.0 * pixels, pixels], [1.0, 1.0], [60.0, 60.0], 3000.0)
    files = dict(zip(forensics_cost.compared_images(), (small, large, small, small), strict=True))
    speed, growth, detailed = forensics_cost.compare_forensics(files)
    assert (speed.value, speed.lowest, speed.highest, speed.met) == (4.0, 3.0, 5.0, True)
    assert (growth.value, growth.met) == (pytest.approx(0.75), False)
    assert (detailed.value, detailed.met) == (pytest.approx(1 / pixels), True)
    table = parse(forensics_cost.forensics_table({"1920x1080": small}))
    assert table[2] == ["1920x1080", "2.00", "1.00", "8.0", "4.0", "500", "250"]


def test_forensics_are_timed_both_ways_on_one_thread_which_is_given_back():
    before = cv2.getNumThreads()
    found = forensics_cost.time_forensics({"small": sample_images.photograph(640, 480)}, 2, 0.01)["small"]
    assert len(found.ours) == len(found.textbook) == 2
    assert min(found.ours) >= min(found.decode) > 0
    assert found.nlm > max(found.textbook) > 0
    assert cv2.getNumThreads() == before


def test_runs_are_timed_in_turns_per_row():
    calls = []
    runs = {name: lambda rows, name=name: calls.append(name) for name in ("a", "b")}
    found = networks.time_interleaved(runs, np.zeros((4, 2), np.uint8), 0.01)
    assert set(found) == {"a", "b"}
    count = networks.CALLS_PER_TURN
    assert calls[: 2 + 2 * count] == ["a", "b"] + ["a"] * count + ["b"] * count


def test_the_command_repeats_the_run_without_naming_files(tmp_path):
    assert bench.command_line(arguments()) == "veridict bench"
    words = ["--seconds", "0.5", "--sizes", "640x480", "--no-peers", "--output", str(tmp_path / "x.md"), "--json"]
    assert bench.command_line(arguments(*words)) == "veridict bench --seconds 0.5 --sizes 640x480 --no-peers"


def test_unusable_arguments_end_with_status_2(capsys):
    assert bench.run(arguments("--output", "/no/such/folder/x.md")) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--seconds", "0"), ("--rounds", "0"), ("--concurrency", "0")])
def test_numbers_out_of_range_are_usage_errors(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        arguments(*words)
    assert words[0] in capsys.readouterr().err


def test_the_gpu_profile_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(bench, "describe_gpus", lambda: "")
    assert bench.run(arguments("--profile", "gpu")) == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_report_says_what_ran_where():
    report = Report("veridict bench --rounds 1")
    report.comparisons.append(tables.Comparison("a / b", "s", 2.0, 1.0, 3.0, 1.5))
    report.add("Comparisons", tables.comparison_table(report.comparisons))
    text, document = report.to_markdown(), json.loads(report.to_json())
    assert text.startswith("# Serving benchmark\n\n`veridict bench --rounds 1`, 20")
    assert f"numpy {np.__version__}" in text
    assert "\n## Comparisons\n" in text
    assert document["ratios"][0]["met"] is True
    assert document["schema"] == "veridict-bench/1"


def test_every_index_of_known_hashes_finds_the_searched_entries():
    found = known_content.time_searches(2_000, 0.01)
    assert [times.exact for times in found] == [True] * len(found)
    assert found[0].name.startswith("ours")
    rows = parse(known_content.search_table(found, 2_000))
    assert rows[0][0] == "index of 2000 hashes"
    assert {row[-1] for row in rows[2:]} == {"yes"}
    hashes = parse(known_content.hash_table(0.01))
    assert all(float(row[1]) > 0 for row in hashes[2:])


def test_versions_leave_out_what_is_not_installed():
    assert set(installed_versions(["numpy", "no-such-distribution"])) == {"numpy"}


def test_gpus_run_no_peer_whose_networks_cannot_go_there():
    assert serving.choose_peers(gpu=False) == list(PEERS)
    assert serving.choose_peers(gpu=True) == [TEXTBOOK, FASTAPI_ONNX]
