"""A short run of the benchmark against a real server."""

import argparse
import json

import pytest
import tritonclient.grpc as triton_grpc

from veridict.loadtests.bench import cli as bench
from veridict.loadtests.bench import stages
from veridict.loadtests.bench.pipelines import TritonPipeline
from veridict.loadtests.sample_images import photograph

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_a_short_run_measures_compares_and_writes_its_report(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    output = tmp_path / "report.md"
    words = "--seconds 0.3 --rounds 1 --sizes 640x480 --concurrency 1 4 --no-peers --json --parts serving stages"
    assert bench.run(parser.parse_args([*words.split(), "--output", str(output)])) == 0
    document = json.loads(capsys.readouterr().out)
    served = [row for row in document["rows"] if row["pipeline"] == "Veridict on Triton"]
    assert [row["concurrency"] for row in served] == [1, 4]
    assert all(row["images_per_second"] > 0 and row["p50"] <= row["p95"] <= row["p99"] for row in served)
    assert all(row["rss"] > row["pss"] > 50 and row["cores"] > 0 and row["rejected"] == 0 for row in served)
    compared = {ratio["what"] for ratio in document["ratios"]}
    assert "served at saturation / best in-process loop in batches" in compared
    (profile,) = document["profiles"]
    assert profile["stages"]["CLIP encoder"] > 0
    assert profile["stages"]["decode"] > 0
    text = output.read_text()
    for title in ("Comparisons", "Serving, warm", "Cold starts", "Where the milliseconds go"):
        assert f"\n## {title}" in text


def test_a_call_may_hold_several_images_and_triton_counts_them(triton):
    served = TritonPipeline(triton)
    with triton_grpc.InferenceServerClient(triton.url) as client:
        before = stages.read_counters(client)
        with served.connect(photograph(640, 480), batch=3) as call:
            assert call() == 3
        after = stages.read_counters(client)
    spent = {name: after[name] - before[name] for name in after}
    assert (spent["preprocess"].rows, spent["preprocess"].requests) == (3, 1)
    assert spent["clip_image"].compute_ns > 0
    assert spent["face_cnn"].rows == 3
