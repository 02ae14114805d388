"""Reconciliation finds every lost or duplicated request; figures are right for runs with known answers."""

import pytest

from veridict.loadtests.load.arrivals import Phase, schedule_phases
from veridict.loadtests.load.generator import Plan, Target, read_plan, write_plan
from veridict.loadtests.load.outcomes import (
    Outcome,
    Request,
    compute_figures,
    read_outcomes,
    reconcile,
    recovery_seconds,
    to_json_line,
)
from veridict.loadtests.load.payloads import Sample, invalid_samples, shuffled_order, with_comment

PHASES = schedule_phases(
    (Phase("before", 10, 0.5, 0.5), Phase("high", 10, 2, 2, True), Phase("after", 12, 0.5, 0.5)), 10
)


def requests(times):
    return [Request(f"r{n}", due, 0) for n, due in enumerate(times)]


def outcome(request, latency=0.1, kind="answered", lag=0.0, code=""):
    return Outcome(request.id, request.due, request.due + lag, request.due + latency, kind, request.sample, code)


def test_reconciliation_names_what_is_lost_duplicated_and_unknown():
    sent = requests([0.0, 1.0, 2.0, 3.0])
    got = [outcome(sent[0]), outcome(sent[1], kind="rejected"), outcome(sent[1]), outcome(Request("x", 0.0, 0))]
    reconciliation = reconcile(sent, got)
    assert reconciliation.lost == ("r2", "r3")
    assert reconciliation.duplicated == ("r1",)
    assert reconciliation.unknown == ("x",)
    assert (reconciliation.sent, reconciliation.counts["answered"], reconciliation.counts["rejected"]) == (4, 3, 1)
    found = compute_figures(sent, got, PHASES, [()], 10.0)
    assert (found["lost"], found["duplicated"]) == (2, 2)


def test_latency_counts_from_when_a_request_was_due():
    (request,) = requests([12.0])
    late = outcome(request, latency=0.9, lag=0.8)  # the generator was busy: the server only took 0.1 s
    found = compute_figures([request], [late], PHASES, [()], 10.0)
    assert found["p50_ms"] == pytest.approx(900)
    assert found["generator_lag_p99_ms"] == pytest.approx(800)


def test_goodput_counts_answers_that_came_within_the_measured_phase():
    sent = requests([9.95, *(10 + 0.1 * n for n in range(100))])
    got = [outcome(r, latency=0.3) for r in sent]
    found = compute_figures(sent, got, PHASES, [()], 20.0)
    assert found["goodput"] == pytest.approx(98 / 10)  # the last three came after it, the one before it within it
    assert found["goodput_over_capacity"] == pytest.approx(0.49)


def test_rejections_do_not_count_as_answers_nor_their_times_as_latency():
    sent = requests([10.0 + n / 10 for n in range(100)])
    got = [outcome(r, 0.2) if n % 2 else outcome(r, 0.01, "rejected") for n, r in enumerate(sent)]
    found = compute_figures(sent, got, PHASES, [()], 10.0)
    assert found["answered_share"] == 0.5
    assert found["p50_ms"] == pytest.approx(200)
    assert found["rejection_p99_ms"] == pytest.approx(10)


def test_a_verdict_that_no_request_explains_was_judged_twice():
    sent = requests([11.0, 12.0, 13.0])
    got = [outcome(sent[0]), outcome(sent[1], 5.0, "deadline"), outcome(sent[2], 0.0, "rejected")]
    assert compute_figures(sent, got, PHASES, [()], 10.0, judged=2)["judged_twice"] == 0
    assert compute_figures(sent, got, PHASES, [()], 10.0, judged=3)["judged_twice"] == 1
    assert compute_figures(sent, got, PHASES, [()], 10.0)["judged_twice"] is None


def run_with_slow_tail(tail):
    """A run whose requests due within ``tail`` seconds after the load fell are slow."""
    sent = requests([0.25 * n for n in range(128)])
    return [outcome(r, 1.5 if 20 <= r.due < 20 + tail else 0.1) for r in sent]


@pytest.mark.parametrize(("tail", "expected"), [(0.0, 0.0), (0.9, 1.0), (4.0, 4.0), (9.9, None)])
def test_recovery_is_when_latency_is_back_for_three_seconds(tail, expected):
    assert recovery_seconds(run_with_slow_tail(tail), PHASES) == expected


def test_a_rejection_after_the_load_fell_is_no_recovery():
    got = [o if o.due != 23.0 else Outcome(o.id, 23.0, 23.0, 23.0, "rejected", 0) for o in run_with_slow_tail(1.0)]
    assert recovery_seconds(got, PHASES) == 4.0


def test_a_run_without_a_phase_afterwards_has_no_recovery():
    assert recovery_seconds(run_with_slow_tail(0.0), PHASES[:2]) is None


def test_bad_files_must_get_their_own_code():
    expected_codes = [(), ("image.empty",), ("image.truncated", "image.corrupt")]
    sent = [Request("a", 11.0, 0), Request("b", 11.0, 1), Request("c", 11.0, 2), Request("d", 11.0, 1)]
    got = [
        outcome(sent[0]),
        outcome(sent[1], kind="refused", code="image.empty"),
        outcome(sent[2], kind="refused", code="image.empty"),
        outcome(sent[3], kind="answered"),
    ]
    found = compute_figures(sent, got, PHASES, expected_codes, 10.0)
    assert (found["wrong_refusals"], found["good_unanswered"]) == (2, 0)
    assert compute_figures(
        sent[:1], [outcome(sent[0], kind="refused", code="image.corrupt")], PHASES, expected_codes, 1.0
    )["good_unanswered"]


def test_complete_lines_of_a_killed_generator_are_read(tmp_path):
    path = tmp_path / "outcomes.jsonl"
    assert read_outcomes(path) == []
    first, second = (outcome(r, code="image.empty") for r in requests([1.0, 2.0]))
    path.write_text(to_json_line(first) + to_json_line(second)[:-9])
    assert read_outcomes(path) == [first]


def test_plan_survives_its_file(tmp_path):
    samples = [Sample("a.jpg", b"\xff\xd8x"), Sample("empty", b"", ("image.empty",))]
    target = Target("127.0.0.1:1", 2.0)
    plan = Plan(target, samples, requests([0.0, 0.5]), 0, 3.0, tmp_path / "l", tmp_path / "t")
    assert read_plan(write_plan(tmp_path, plan)) == plan


def test_comments_change_the_hash_and_not_the_image(encode, cat):
    from veridict.forensics.preprocess import prepare

    photo = encode(cat)
    one, two = (prepare(with_comment(photo, text)) for text in ("load-1", "load-2"))
    assert one.observation.image.sha256 != two.observation.image.sha256
    assert (one.view == prepare(photo).view).all()
    assert (one.observation.image.width, one.observation.image.height) == (cat.shape[1], cat.shape[0])
    png = encode(cat, "PNG")
    assert with_comment(png, "x") == png


def test_invalid_samples_are_refused_with_the_codes_they_name(encode, cat):
    from veridict.forensics.errors import ImageError
    from veridict.forensics.preprocess import prepare

    samples = invalid_samples(encode(cat))
    assert len(samples) == 8
    for sample in samples:
        with pytest.raises(ImageError) as caught:
            prepare(sample.data)
        assert caught.value.code in sample.expected_codes, sample.name


def test_every_permutation_of_the_order_holds_the_same_mix():
    order = shuffled_order(40, 8)
    assert all(sorted(order[start : start + 8]) == list(range(8)) for start in range(0, 40, 8))
    assert order == shuffled_order(40, 8)
    assert order[:8] != order[8:16]
