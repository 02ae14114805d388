"""What rules and dashboards ask for is exported, and a real Prometheus answers every panel with data."""

import contextlib
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from veridict.client import DetectorClient, InvalidImageError
from veridict.explain.jobs.client import ExplanationClient
from veridict.explain.jobs.settings import QueueSettings

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy/observability"
RULES = [
    rule
    for path in sorted((FOLDER / "prometheus/rules").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
PANELS = {
    path.stem: json.loads(path.read_text())["panels"] for path in sorted((FOLDER / "grafana/dashboards").glob("*.json"))
}
#: Words of PromQL in these files that name no metric.
FUNCTIONS = {
    "abs",
    "absent",
    "avg_over_time",
    "count",
    "histogram_quantile",
    "increase",
    "max",
    "min_over_time",
    "rate",
    "sum",
}
WORDS = FUNCTIONS | {"and", "by", "group_left", "offset", "on", "unless"}


def read_script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"grafana/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def metrics_in(expression):
    """Return the metrics that an expression names: identifiers outside labels and groupings that are no words."""
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(?:by|on|group_left)\s*\([^)]*\)|\boffset \d+\w", " ", expression)
    return set(re.findall(r"(?<![\w.])[a-z_][\w:]*", text)) - WORDS


def asked_for():
    """Return the metrics that rules and panels name, without those that a rule records."""
    expressions = [rule["expr"] for rule in RULES]
    expressions += [target["expr"] for panels in PANELS.values() for panel in panels for target in panel["targets"]]
    found = set().union(*map(metrics_in, expressions))
    return found - {rule["record"] for rule in RULES if "record" in rule}


def test_names_are_read_from_expressions():
    text = '1e-6 * sum by (model) (rate(nv_x_us{model="a"}[5m])) / on () group_left () veridict:y:sum offset 1d'
    assert metrics_in(text) == {"nv_x_us", "veridict:y:sum"}


def test_the_dashboards_are_what_the_script_writes():
    script = read_script("dashboards")
    assert set(PANELS) == set(script.DASHBOARDS)
    for uid in PANELS:
        assert (FOLDER / f"grafana/dashboards/{uid}.json").read_text() == script.build(uid), (
            "run python deploy/observability/grafana/dashboards.py"
        )


def test_every_recorded_series_is_used():
    texts = [rule["expr"] for rule in RULES]
    texts += [target["expr"] for panels in PANELS.values() for panel in panels for target in panel["targets"]]
    used = set().union(*map(metrics_in, texts))
    assert {rule["record"] for rule in RULES if "record" in rule} <= used


@pytest.mark.slow
@pytest.mark.live
def test_every_metric_that_is_asked_for_is_exported(service):
    text = service.scrape("veridict-triton") + service.scrape("veridict-worker")
    exported = set(re.findall(r"^(\w+)(?:\{| )", text, flags=re.MULTILINE))
    assert asked_for() - exported == {"up"}  # Prometheus makes that one itself


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)


def write_history(folder, exported):
    """Write history of the two series that the reference reads, as a Prometheus that ran for days has them."""
    now = int(time.time()) // 60 * 60
    names = {
        "veridict_verdicts_total": "veridict:verdicts:rate1h",
        "veridict_fake_probability_total": "veridict:scores:rate1h",
    }
    lines = []
    for metric, record in names.items():
        labels = re.findall(rf"^{metric}(\{{[^}}]*\}}) ", exported, flags=re.MULTILINE)
        lines += [f"# TYPE {record} gauge"]
        lines += [
            f"{record}{label} {0.01 + hash(label) % 7} {now - hours * 3600}"
            for label in labels
            for hours in range(40, 24, -4)
        ]
    (folder / "history.txt").write_text("\n".join([*lines, "# EOF", ""]))
    order = ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "history.txt", folder / "data"]
    subprocess.run(order, check=True, capture_output=True)


def write_configuration(folder, service):
    """Write the deployed configuration and rules with this service's addresses, and intervals of a second."""
    document = yaml.safe_load((FOLDER / "prometheus/prometheus.yaml").read_text())
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    document.pop("alerting")
    for job in document["scrape_configs"]:
        job["static_configs"] = [{"targets": [urllib.parse.urlsplit(service.metrics[job["job_name"]]).netloc]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(document))
    (folder / "rules").mkdir()
    for path in (FOLDER / "prometheus/rules").glob("*.yaml"):
        text = re.sub(r"interval: \w+", "interval: 1s", path.read_text())
        (folder / "rules" / path.name).write_text(text)


@pytest.fixture(scope="module")
def prometheus(service, tmp_path_factory):
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    write_history(folder, service.scrape("veridict-triton"))
    write_configuration(folder, service)
    url = f"127.0.0.1:{free_port()}"
    order = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    order += [f"--web.listen-address={url}", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(order, stderr=log, stdout=log)
    try:
        ends = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{url}/-/ready", timeout=5).close()
                break
            assert time.monotonic() < ends, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://{url}"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def load(service, images):
    """Keep the detector and the worker busy with good and bad images."""
    stop = threading.Event()

    def judge():
        with DetectorClient(service.url) as client:
            while not stop.is_set():
                for image in images:
                    client.detect(image)
                    stop.wait(0.1)
                with pytest.raises(InvalidImageError):
                    client.detect(b"no image")

    def explain():
        with ExplanationClient(QueueSettings(state=service.state)) as client:
            number = 0
            while not stop.wait(0.2):
                number += 1
                jobs = client.submit(images[0] + b"%d" % number, ["sharpness", "noise"]).jobs
                for job in jobs.values():  # so that no job is left for the tests that follow
                    client.wait(job, 120)

    threads = [threading.Thread(target=judge), threading.Thread(target=explain)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for_data(prometheus):
    """Return once every panel has data, or after as long as that may take; the test then names what has none."""
    query_range = read_script("render").query_range
    missing = {target["expr"] for panels in PANELS.values() for panel in panels for target in panel["targets"]}
    ends = time.monotonic() + 60
    while missing and time.monotonic() < ends:
        time.sleep(0.5)
        missing = {expression for expression in missing if not query_range(prometheus, expression, 60)}


@pytest.mark.slow
@pytest.mark.live
def test_a_prometheus_gets_data_for_every_panel(prometheus, service, encode, cat, coffee, three_faces, tmp_path):
    with load(service, [encode(cat), encode(coffee), encode(three_faces)]):
        wait_for_data(prometheus)
        for uid in PANELS:
            order = [sys.executable, FOLDER / "grafana/render.py", uid, "--prometheus", prometheus]
            order += ["--seconds", "60", "--output", tmp_path / f"{uid}.png"]
            done = subprocess.run([*map(str, order)], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert (tmp_path / f"{uid}.png").stat().st_size > 10_000
    groups = get(f"{prometheus}/api/v1/rules")["data"]["groups"]
    unwell = {
        rule["name"]: rule.get("lastError") for group in groups for rule in group["rules"] if rule["health"] != "ok"
    }
    assert unwell == {}
