"""Every alert fires when it should and stays quiet otherwise: promtool evaluates the rules on series written here."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[3] / "deploy/observability/prometheus"
RULES = {path.stem: yaml.safe_load(path.read_text()) for path in (FOLDER / "rules").glob("*.yaml")}
ALERTS = {rule["alert"]: rule for group in RULES["alerts"]["groups"] for rule in group["rules"]}
ORDER = [group["name"] for name in ("recording", "alerts") for group in RULES[name]["groups"]]

#: Two days by half hours: the reference week may be shorter.
MINUTES, STEPS_OF_DAYS, CHANGED = 90, 2 * 48, 8
VERDICT = 'veridict_verdicts_total{{instance="a",category="{}",verdict="{}",confidence="{}"}}'
SCORE = 'veridict_fake_probability_total{{instance="a",category="{}",tenth="{}"}}'


def counter(*segments):
    """Return promtool's notation of a counter from (steps, increase per step)."""
    words, value = [], 0
    for steps, increase in segments:
        words.append(f"{value}+{increase}x{steps - 1}")
        value += steps * increase
    return " ".join(words)


def flat(*segments):
    return " ".join(f"{value}+0x{steps - 1}" for steps, value in segments)


#: A service in order, by the minute.
HEALTHY = {
    'up{job="veridict-triton",instance="a"}': flat((MINUTES, 1)),
    VERDICT.format("person", "real", "high"): counter((MINUTES, 600)),
    'veridict_image_errors_total{instance="a",code="image.corrupt"}': counter((MINUTES, 6)),
    'veridict_requests_refused_total{instance="a",reason="full"}': counter((MINUTES, 0)),
    'veridict_requests_refused_total{instance="a",reason="late"}': counter((MINUTES, 0)),
    'veridict_requests_failed_total{instance="a"}': counter((MINUTES, 0)),
    'veridict_images_under_way{instance="a",process="7"}': flat((MINUTES, 5)),
    'veridict_known_content_refused_files{instance="a",process="8"}': flat((MINUTES, 0)),
    'veridict_policies_refused{instance="a",process="8"}': flat((MINUTES, 0)),
    'veridict_latency_seconds_bucket{instance="a",le="0.1"}': counter((MINUTES, 500)),
    'veridict_latency_seconds_bucket{instance="a",le="2.5"}': counter((MINUTES, 600)),
    'veridict_latency_seconds_bucket{instance="a",le="5.0"}': counter((MINUTES, 600)),
    'veridict_latency_seconds_bucket{instance="a",le="+Inf"}': counter((MINUTES, 600)),
    'nv_inference_request_failure{instance="a",model="fusion",reason="OTHER"}': counter((MINUTES, 0)),
    'nv_inference_request_failure{instance="a",model="clip_image",reason="BACKEND"}': counter((MINUTES, 0)),
    'up{job="veridict-worker",instance="w"}': flat((MINUTES, 1)),
    'veridict_explain_queue_lag{instance="w",priority="live"}': flat((MINUTES, 3)),
    'veridict_explain_oldest_seconds{instance="w",priority="live"}': flat((MINUTES, 10)),
    'veridict_explain_dead_letters{instance="w"}': flat((MINUTES, 2)),
    'veridict_explain_jobs_total{instance="w",method="shap",outcome="done"}': counter((MINUTES, 20)),
    'veridict_explain_jobs_total{instance="w",method="shap",outcome="retried"}': counter((MINUTES, 0)),
    'veridict_explain_webhooks_total{instance="w",outcome="failed"}': counter((MINUTES, 0)),
}
NAMES = list(HEALTHY)


def named(part):
    """Return the one series of the healthy service whose name contains ``part``."""
    (name,) = [name for name in NAMES if part in name]
    return name


#: What differs from the healthy service -> the alerts that fire, and no others.
SERVICE_CASES = [
    ({}, []),
    ({named('up{job="veridict-triton"'): flat((MINUTES, 0))}, ["VeridictNoServer", "VeridictServerDown"]),
    ({'up{job="veridict-triton",instance="b"}': flat((MINUTES, 0))}, ["VeridictServerDown"]),
    ({'up{job="veridict-triton-canary",instance="c"}': flat((MINUTES, 0))}, ["VeridictServerDown"]),
    ({named("verdicts_total"): counter((60, 600), (30, 0)), named("errors"): flat((MINUTES, 3))}, ["VeridictStuck"]),
    ({named('reason="full"'): counter((MINUTES, 12))}, ["VeridictRefusesRequests"]),
    ({named('reason="full"'): counter((MINUTES, 3))}, []),
    ({named('reason="late"'): counter((MINUTES, 12))}, ["VeridictDeadlinesExceeded"]),
    ({named("requests_failed"): counter((MINUTES, 3))}, ["VeridictInternalErrors"]),
    ({named("clip_image"): counter((MINUTES, 60))}, ["VeridictNetworkFails"]),
    ({named('le="2.5"'): counter((MINUTES, 550))}, ["VeridictSlow"]),
    ({named("errors"): counter((MINUTES, 90))}, ["VeridictImagesRejected"]),
    ({named("refused_files"): flat((60, 0), (30, 1))}, ["VeridictBankRefused"]),
    ({named("policies_refused"): flat((60, 0), (30, 1))}, ["VeridictPoliciesRefused"]),
    ({named("oldest"): flat((MINUTES, 400))}, ["VeridictExplanationsLate"]),
    ({named("queue_lag"): "3x50"}, ["VeridictQueueUnreachable"]),
    ({named("queue_lag"): "3x50", named('up{job="veridict-worker"'): flat((MINUTES, 0))}, []),
    ({named("dead_letters"): flat((60, 2), (30, 3))}, ["VeridictDeadLetters"]),
    ({named('"retried"'): counter((MINUTES, 5))}, ["VeridictExplanationsFail"]),
    ({named("webhooks"): counter((MINUTES, 1))}, ["VeridictWebhooksFail"]),
]


def days(before, after, scale=1):
    """Return verdicts and scores over two days, by half hours; the last four hours as ``after``.

    ``before`` and ``after``: images per step by (category, verdict, confidence, tenth).
    """
    series = {'up{job="veridict-triton",instance="a"}': flat((STEPS_OF_DAYS, 1))}
    for key in {*before, *after}:
        category, verdict, confidence, tenth = key
        steps = counter((STEPS_OF_DAYS - CHANGED, before.get(key, 0) * scale), (CHANGED, after.get(key, 0) * scale))
        series[VERDICT.format(category, verdict, confidence)[:-1] + f',tenth="{tenth}"}}'] = steps
        series[SCORE.format(category, tenth)[:-1] + f',of="{verdict}{confidence}"}}'] = steps
    return series


REAL, FAKE, UNSURE = ("real", "high", "0.1"), ("deepfake", "high", "1.0"), ("real", "low", "0.1")
USUAL = {("person", *REAL): 900, ("person", *FAKE): 50, ("person", *UNSURE): 50, ("food", *REAL): 400}
DRIFT_CASES = [
    (days(USUAL, USUAL), []),
    (days(USUAL, {**USUAL, ("person", *UNSURE): 400}), ["VeridictLowConfidence"]),
    (days(USUAL, {**USUAL, ("person", *FAKE): 200}), []),
    (
        days(USUAL, {**USUAL, ("person", *FAKE): 500}),
        ["VeridictCategoryScoreDrift", "VeridictDeepfakeShare", "VeridictScoreDrift"],
    ),
    (days(USUAL, {**USUAL, ("person", *FAKE): 500}, scale=0.05), []),  # too few images to tell
    # The scores move to the middle, the verdicts do not.
    (
        days(USUAL, {("person", "real", "high", "0.5"): 900, **{k: n for k, n in USUAL.items() if k[1:] != REAL}}),
        ["VeridictCategoryScoreDrift", "VeridictScoreDrift"],
    ),
    (days(USUAL, {**USUAL, ("food", "real", "high", "0.3"): 160}), ["VeridictCategoryScoreDrift"]),
]


def promtool(*arguments):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def as_test(series, alerts, interval, at):
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts]
    question = 'count by (alertname) (count by (alertname) (ALERTS{alertstate="firing"}))'
    return {
        "interval": interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": question, "eval_time": at, "exp_samples": expected}],
    }


def run_cases(tmp_path, tests, interval):
    document = {
        "rule_files": [str(FOLDER / "rules" / f"{name}.yaml") for name in ("recording", "alerts")],
        "evaluation_interval": interval,
        "group_eval_order": ORDER,
        "tests": tests,
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    done = promtool("test", "rules", tmp_path / "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid():
    assert promtool("check", "rules", *sorted((FOLDER / "rules").glob("*.yaml"))).returncode == 0
    done = promtool("check", "config", FOLDER / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_service_and_explanation_alerts(tmp_path):
    tests = [as_test({**HEALTHY, **changed}, alerts, "1m", "70m") for changed, alerts in SERVICE_CASES]
    run_cases(tmp_path, tests, "1m")


@pytest.mark.slow
def test_drift_alerts(tmp_path):
    tests = [as_test(series, alerts, "30m", f"{(STEPS_OF_DAYS - 1) * 30}m") for series, alerts in DRIFT_CASES]
    run_cases(tmp_path, tests, "30m")


def test_every_alert_has_a_case_a_runbook_and_a_severity():
    assert {name for _, alerts in SERVICE_CASES + DRIFT_CASES for name in alerts} == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert len(rule["annotations"]["runbook"]) > 80, name
        assert rule["annotations"]["summary"], name
