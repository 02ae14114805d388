"""The formulas of HPA and KEDA on known cases, and two loads with the settings that are deployed."""

import math
from pathlib import Path

import pytest
import yaml

from veridict.deploy.recorded_loads import read_curve, read_load
from veridict.deploy.scaling import (
    CURVE,
    SYNC,
    Autoscaler,
    Rules,
    Server,
    build_parser,
    limit_for,
    main,
    simulate,
    size_for,
)

ROOT = Path(__file__).resolve().parents[3]
SCALED_OBJECT = ROOT / "deploy/kubernetes/components/keda/scaled-objects.yaml"
DRAWN, RECORDED = (Path(__file__).with_name(f"{kind}_load.txt") for kind in ("drawn", "recorded"))
CURVES = {"closed loop": CURVE, "recorded": read_curve(RECORDED)}
FREE = Rules(0, ())
UNDER_WAY = {"images-under-way": ("AverageValue", 10.0)}
CPU, GPU = 82.0, 1120.0


def deployed(rate):
    document = next(d for d in yaml.safe_load_all(SCALED_OBJECT.read_text()) if d["metadata"]["name"] == "triton")
    return size_for(Autoscaler.parse(document), rate)


def scaler(up=FREE, down=FREE, triggers=UNDER_WAY):
    return Autoscaler(1, 100, dict(triggers), up, down)


@pytest.mark.parametrize(
    ("replicas", "value", "wanted"),
    [(2, 20, 2), (2, 21.9, 2), (2, 22.1, 3), (2, 17, 2), (3, 17, 2), (2, 200, 20), (5, 0, 0), (4, 36.1, 4), (4, 30, 3)],
)
def test_average_value_is_the_total_over_the_threshold(replicas, value, wanted):
    assert scaler().desired(replicas, {"images-under-way": value}) == wanted


def test_value_is_in_proportion_to_the_present_count_and_the_highest_trigger_counts():
    both = scaler(triggers={**UNDER_WAY, "seconds-under-way": ("Value", 0.35)})
    assert both.desired(4, {"seconds-under-way": 0.7}) == 8
    assert both.desired(4, {"seconds-under-way": 0.37}) == 4
    assert both.desired(4, {"images-under-way": 100, "seconds-under-way": 0.7}) == 10
    assert both.desired(4, {"images-under-way": 10, "seconds-under-way": 0.7}) == 8


def test_the_window_keeps_the_highest_recommendation():
    held = scaler(down=Rules(60, ()))
    values = [100, 10, 10, 10, 10, 10, 10]
    counts = []
    for step, value in enumerate(values):
        counts.append(held.decide(step * SYNC, counts[-1] if counts else 1, {"images-under-way": value}))
    assert counts == [10, 10, 10, 10, 10, 1, 1]


def test_policies_bound_the_steps():
    slow = scaler(up=Rules(0, (("Percent", 100, 60), ("Pods", 4, 60))), down=Rules(0, (("Percent", 10, 60),)))
    assert slow.decide(0, 1, {"images-under-way": 1000}) == 5  # four pods are more than 100%
    assert slow.decide(15, 5, {"images-under-way": 1000}) == 5  # all of this minute's are used
    assert slow.decide(75, 5, {"images-under-way": 1000}) == 10
    assert slow.decide(150, 100, {"images-under-way": 0}) == 90
    assert slow.decide(165, 90, {"images-under-way": 0}) == 90


def test_a_server_holds_what_was_measured():
    server = Server(18.5, 32)
    assert server.in_flight(9.6) == pytest.approx(1, abs=0.05)  # loadtests/RESULTS.md, concurrency 1, 8 and 16
    assert server.in_flight(16.8) == pytest.approx(8, abs=0.2)
    assert server.in_flight(18.499) == pytest.approx(16, abs=0.2)
    assert server.in_flight(30) == 32


def test_a_recorded_server_is_slower_the_fuller_it_is_and_never_faster_than_in_a_closed_loop():
    curve = read_curve(RECORDED)
    shares, seconds = zip(*curve, strict=True)
    assert list(shares) == sorted(shares)
    assert list(seconds) == sorted(seconds)
    # Requests that come at random wait for each other; in a closed loop none comes before an answer.
    busy = Server(CPU, 1000, curve=curve)
    assert all(
        busy.in_flight(share * CPU) > Server(CPU, 1000).in_flight(share * CPU) for share in (0.3, 0.5, 0.65, 0.8)
    )


@pytest.mark.parametrize("text", ["1 2\n", "# capacity 8.8\n1\n", "# capacity 8.8\n1 2\n"])
def test_what_gives_no_curve_is_refused(tmp_path, text):
    path = tmp_path / "load.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a curve needs|no interval has"):
        read_curve(path)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("rate", "peak"), [(r, p) for r in (CPU, GPU) for p in (10, 1000, 10_000)])
def test_a_constant_load_settles_without_flapping(rate, peak, curve):
    result = simulate([peak] * 7200, Server(rate, limit_for(rate), curve=CURVES[curve]), deployed(rate))
    least = max(2, math.ceil(peak / rate))
    assert least <= result.replicas[-1] <= max(2, 2.3 * peak / rate)
    assert len(set(result.replicas[2400:])) == 1  # nothing changes after the first forty minutes
    assert result.reversals <= 1  # one overshoot at most, taken back once


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("path", "refused"), [(DRAWN, 0.02), (RECORDED, 0.025)], ids=["drawn", "recorded"])
@pytest.mark.parametrize(("rate", "peak"), [(r, p) for r in (CPU, GPU) for p in (10, 1000, 10_000)])
def test_the_load_is_followed_without_flapping(rate, peak, path, refused, curve):
    load = read_load(path, peak, 60)
    result = simulate(load, Server(rate, limit_for(rate), curve=CURVES[curve]), deployed(rate))
    assert max(result.replicas) >= min(2, peak / rate)
    assert result.refused < refused * result.offered
    turns = 5  # the cold start, and a rise and a fall for each of two humps
    assert result.reversals <= turns


def test_the_table_in_the_documentation_is_the_commands(capsys):
    options = [str(SCALED_OBJECT), "--load", str(RECORDED), "--curve", str(RECORDED)]
    assert build_parser().parse_args(options).stretch == 60
    assert main(options) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "kubernetes.md").read_text()


def test_a_file_that_is_no_load_is_named(tmp_path, capsys):
    path = tmp_path / "load.txt"
    path.write_text("no\n")
    assert main([str(SCALED_OBJECT), "--load", str(path)]) == 1
    assert f"{path}: could not convert" in capsys.readouterr().err
    assert main([str(path), "--load", str(RECORDED)]) == 1
    assert f"{path} has no ScaledObject" in capsys.readouterr().err
