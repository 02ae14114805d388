"""Recording a load: what is read from a metrics page, and what becomes of it in each interval."""

import pytest

from veridict.deploy.recorded_loads import read_load
from veridict.loadtests.load.record import Look, read_metrics, summarise

PAGE = """\
# TYPE veridict_verdicts_total counter
veridict_verdicts_total{category="food",verdict="real",confidence="high"} 5
veridict_verdicts_total{category="food",verdict="deepfake",confidence="low"} 2
veridict_requests_refused_total{reason="full"} 3
veridict_requests_refused_total{reason="late"} 1
veridict_images_under_way{process="12"} 4
"""


def test_series_are_summed():
    assert read_metrics(PAGE, 1.5) == Look(1.5, verdicts=7, refused=4, in_flight=4)


def test_a_page_of_another_server_is_named():
    with pytest.raises(ValueError, match="lacks veridict_images_under_way"):
        read_metrics(PAGE.rpartition("veridict_images")[0], 0.0)


def test_an_interval_has_its_own_rates():
    looks = [Look(t, verdicts=2.0 * t, refused=max(0.0, t - 10), in_flight=float(t >= 10) * 6) for t in range(20)]
    assert summarise(looks, 10.0, 2) == [pytest.approx((2.0, 0.0, 2.0)), pytest.approx((3.0, 6.0, 2.0))]


def test_an_interval_without_looks_has_no_rate():
    with pytest.raises(ValueError, match="interval 1"):
        summarise([Look(t, t, 0, 0) for t in range(11)], 10.0, 2)


def test_what_was_recorded_is_a_load(tmp_path):
    path = tmp_path / "load.txt"
    path.write_text("# recorded\n2.0 5.1 2.0\n\n4.0 9.9 3.5\n")
    assert read_load(path, peak=100, stretch=2) == [50, 50, 100, 100]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "0\n0\n", "1\n-1\n", "1\nnan\n", "1\ninf\n", "1\nmany\n"])
def test_what_is_no_load_is_refused(tmp_path, text):
    path = tmp_path / "load.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a load needs rates|could not convert string"):
        read_load(path, 100, 1)
