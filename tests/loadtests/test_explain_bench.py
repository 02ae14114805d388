"""The explanation benchmark's arithmetic: where a map points, the planted squares, and the paired ratios."""

import numpy as np
import pytest

from veridict.deploy.command import main
from veridict.explain.attribution import Attribution
from veridict.explain.methods.error_level import attribute as error_level
from veridict.loadtests.explain.pointing_game import (
    TrialResult,
    plant_square,
    pointing_game_table,
    share_inside,
    wilson,
)
from veridict.loadtests.explain.verdict_latency import STATES, bootstrap_median, compare_latencies

pytestmark = pytest.mark.export


def a_map(values, method="ela"):
    return Attribution(method, "measurement", values, "grey levels", (10, 20, 40, 40), None, {}, {}, 0.0, "m", "1")


def test_a_map_points_at_its_highest_or_lowest_value():
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1.0  # centre at x = 10 + 2.5 * 10, y = 20 + 1.5 * 10
    assert share_inside(a_map(values), (30, 30, 10)) == 1.0
    assert share_inside(a_map(values), (10, 20, 10)) == 0.0
    assert share_inside(a_map(-values), (30, 30, 10), lowest=True) == 1.0
    values[3, 3] = 1.0  # two equal regions: a draw between them
    assert share_inside(a_map(values), (30, 30, 10)) == 0.5


@pytest.mark.parametrize("manipulation", ["swap", "splice"])
def test_a_planted_square_is_all_that_differs(encode, astronaut, manipulation):
    planted = plant_square(encode(astronaut, quality=92), manipulation, np.random.default_rng(1))
    left, top, side = planted.square
    x, y, size, _ = planted.subject.face_region
    assert x <= left <= left + side <= x + size
    assert y <= top <= top + side <= y + size
    difference = np.abs(planted.subject.image.pixels.astype(int) - planted.clean.image.pixels).mean(axis=2)
    inside = np.zeros(difference.shape, bool)
    inside[top : top + side, left : left + side] = True
    near = np.zeros_like(inside)  # a JPEG block that the square touches may differ as a whole
    near[max(0, top - 16) : top + side + 16, max(0, left - 16) : left + side + 16] = True
    assert difference[inside].mean() > 3
    assert difference[~near].max() == 0


def test_a_splice_has_a_compression_history_of_its_own(encode, astronaut):
    planted = plant_square(encode(astronaut, quality=92), "splice", np.random.default_rng(1))
    left, top, side = planted.square
    levels = [error_level(s, None, None, None).values for s in (planted.clean, planted.subject)]
    before, after = (v[top : top + side, left : left + side].mean() for v in levels)
    assert after > 1.5 * before


def test_the_table_has_a_rate_per_kind_and_its_interval():
    results = [
        TrialResult(manipulation, {"ela": float(n < 8)}, {"ela": 0.1}, 1.0)
        for manipulation in ("swap", "splice")
        for n in range(10)
    ]
    assert "| ela | 0.80 (0.49-0.94) | 0.80 (0.49-0.94) | 0.10 |" in pointing_game_table(results, ["ela"])
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_ratios_are_paired_within_rounds():
    rng = np.random.default_rng(0)
    rounds = []
    for drift in np.linspace(1.0, 3.0, 20):  # the machine slows down threefold; the pairs do not care
        rounds.append({s: list(drift * rng.normal(20, 1, 200) * (1.2 if s == "busy" else 1.0)) for s in STATES})
    p50, p95 = compare_latencies(1, rounds)
    for found in (p50, p95):
        assert found.ratio.low < 1.2 < found.ratio.high
        assert found.ratio.low > 1.1
        assert found.control.low < 1.0 < found.control.high
    assert (p50.percentile, p95.percentile) == (50, 95)
    exact = bootstrap_median([2.0] * 5)
    assert (exact.value, exact.low, exact.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("bad", [["--repeats", "1"], ["--images", "-1"], ["--seconds", "0"]])
def test_numbers_out_of_range_are_usage_errors(bad, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench-explain", *bad])
    assert bad[0] in capsys.readouterr().err


def test_a_missing_folder_is_refused_before_a_server_starts(capsys):
    assert main(["bench-explain", "--faces", "/none"]) == 2
    assert "bench-explain:" in capsys.readouterr().err
