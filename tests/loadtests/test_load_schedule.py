"""Arrival times follow the rate of each phase, independent of the answers."""

import itertools

import pytest

from veridict.loadtests.load.arrivals import PROFILES, Phase, arrival_times, schedule_phases


def rate(times, begins, ends):
    return sum(begins <= t < ends for t in times) / (ends - begins)


def test_even_arrivals_keep_the_rate_of_every_phase():
    phases = schedule_phases((Phase("low", 10, 0.5, 0.5), Phase("high", 5, 2.0, 2.0, measured=True)), capacity=40)
    times = arrival_times(phases)
    assert rate(times, 0, 10) == 20
    assert rate(times, 10, 15) == 80
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert min(gaps) == pytest.approx(1 / 80)
    assert max(gaps) == pytest.approx(1 / 20)


def test_a_ramp_sends_what_lies_under_it():
    times = arrival_times(schedule_phases((Phase("ramp", 20, 0.0, 1.0, measured=True),), capacity=50))
    assert len(times) == 500
    assert rate(times, 0, 10) == pytest.approx(12.5, abs=0.2)
    assert rate(times, 10, 20) == pytest.approx(37.5, abs=0.2)


def test_poisson_arrivals_have_the_mean_and_spread_of_a_poisson_process():
    phases = schedule_phases((Phase("one", 500, 1.0, 1.0, measured=True),), capacity=20)
    times = arrival_times(phases, poisson=True, seed=3)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 20, rel=0.05)
    assert (sum((g - mean) ** 2 for g in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.1)
    assert times == arrival_times(phases, poisson=True, seed=3) == sorted(times)


def test_scale_shortens_time_and_not_rate():
    phases = schedule_phases(PROFILES["overload"].phases, capacity=30, scale=0.1)
    assert [s.ends - s.begins for s in phases] == pytest.approx([1.5, 12.0, 2.5])
    assert rate(arrival_times(phases), 1.5, 13.5) == pytest.approx(60, abs=0.2)


@pytest.mark.parametrize(("capacity", "scale"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1), (float("inf"), 1)])
def test_senseless_loads_are_refused(capacity, scale):
    with pytest.raises(ValueError, match="positive"):
        schedule_phases(PROFILES["steady"].phases, capacity, scale)


def test_profiles_are_what_they_are_called():
    assert set(PROFILES) == {"steady", "ramp", "spike", "overload", "mixed-sizes", "mixed-bad-input"}
    assert all(any(p.measured for p in profile.phases) for profile in PROFILES.values())
    (overload,) = [p for p in PROFILES["overload"].phases if p.measured]
    assert (overload.seconds, overload.start, overload.end) == (120, 2.0, 2.0)
    assert [p.start for p in PROFILES["steady"].phases if p.measured] == [0.8]
