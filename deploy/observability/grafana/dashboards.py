"""Writes Grafana's dashboards as JSON: ``python deploy/observability/grafana/dashboards.py`` after a change here.

They are built with Grafana's typed SDK (``grafana-foundation-sdk`` of the extra ``dev``). Panels read the recording
rules of ``../prometheus/rules/recording.yaml``, or counters over fixed windows, so that every query runs in any
Prometheus as it stands.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
#: Grid units: a dashboard is 24 wide.
_HEIGHT, _WIDTH, _STAT_HEIGHT, _STAT_WIDTH = 8, 12, 4, 4


@dataclass(frozen=True)
class Plot:
    """One panel: a title, what it tells, its unit, and its queries with their legends.

    ``kind``: ``lines``, ``stacked`` areas, ``stat`` (one number) or ``table`` (the labels now).
    """

    title: str
    text: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "lines"


def _share(title: str, text: str, *queries: tuple[str, str], kind: str = "lines") -> Plot:
    return Plot(title, text, "percentunit", queries, kind)


SERVICE = (
    Plot("Images judged", "Verdicts per second.", "reqps", (("veridict:images_judged:rate5m", ""),), "stat"),
    _share(
        "Refused",
        "Of all requests: in-flight limit or deadline.",
        ("sum(veridict:requests_refused:ratio5m)", ""),
        kind="stat",
    ),
    _share("Failed", "Of all requests: server.internal.", ("veridict:requests_failed:ratio5m", ""), kind="stat"),
    Plot("p99 latency", "Inside the server.", "s", (("veridict:latency_seconds:p99_5m", ""),), "stat"),
    Plot("In flight", "Images admitted and not yet judged.", "short", (("veridict:images_in_flight:sum", ""),), "stat"),
    Plot("Servers", "That answer their metrics endpoint.", "short", (('sum(up{job="veridict-triton"})', ""),), "stat"),
    Plot(
        "Answers",
        "Per second, by outcome.",
        "reqps",
        (
            ("veridict:images_judged:rate5m", "judged"),
            ("sum(veridict:images_rejected:rate5m)", "image rejected"),
            ("veridict:requests_refused:rate5m", "refused: {{reason}}"),
            ("veridict:requests_failed:rate5m", "failed"),
        ),
        "stacked",
    ),
    Plot(
        "Latency",
        "From arrival in preprocess until the networks' scores. Network and client time come on top.",
        "s",
        (("veridict:latency_seconds:p50_5m", "p50"), ("veridict:latency_seconds:p99_5m", "p99")),
    ),
    Plot(
        "Mean time per stage",
        "Where an image spends its time. queue: waits for a core; grouping: waits for its batch; networks: CLIP and "
        "face CNN.",
        "s",
        (("veridict:stage_seconds:mean5m", "{{stage}}"),),
        "stacked",
    ),
    Plot(
        "Images in flight by server",
        "The in-flight limit is 32 per server unless configured.",
        "short",
        (("sum by (instance) (veridict_images_under_way)", "{{instance}}"),),
    ),
    Plot("Rejected images", "Per second, by error code.", "reqps", (("veridict:images_rejected:rate5m", "{{code}}"),)),
    Plot(
        "Verdicts by server",
        "Replicas behind a load balancer should lie together.",
        "reqps",
        (("sum by (instance) (rate(veridict_verdicts_total[5m]))", "{{instance}}"),),
    ),
)

MODELS = (
    Plot("Images by model", "Per second.", "reqps", (("veridict:model_images:rate5m", "{{model}}"),)),
    Plot("Mean batch size", "Images per execution.", "short", (("veridict:model_batch_size:mean5m", "{{model}}"),)),
    Plot(
        "Mean compute time",
        "Per request. preprocess works in threads of its own: its time is in the stages of the service dashboard.",
        "s",
        (("veridict:model_compute_seconds:mean5m", "{{model}}"),),
    ),
    Plot("Mean queue time in Triton", "Per request.", "s", (("veridict:model_queue_seconds:mean5m", "{{model}}"),)),
    Plot(
        "Pending requests",
        "Waiting in Triton.",
        "short",
        (("sum by (model) (nv_inference_pending_request_count)", "{{model}}"),),
    ),
    Plot(
        "Failures", "Per second; without rejected images.", "reqps", (("veridict:model_failures:rate5m", "{{model}}"),)
    ),
    Plot(
        "Host CPU",
        "Share of all cores of a server's machine.",
        "percentunit",
        (("nv_cpu_utilization", "{{instance}}"),),
    ),
    Plot("Host memory", "Used on a server's machine.", "bytes", (("nv_cpu_memory_used_bytes", "{{instance}}"),)),
    Plot(
        "Versions that judge",
        "More than one row: a rollout or canary is under way, or replicas differ.",
        "short",
        (("count by (clip, face_cnn, calibration, policy) (veridict_models_info)", ""),),
        "table",
    ),
)

DRIFT = (
    _share("Deepfakes", "Share of the last hour.", ("veridict:deepfake_share:ratio1h", ""), kind="stat"),
    _share("Low confidence", "Share of the last hour.", ("veridict:low_confidence_share:ratio1h", ""), kind="stat"),
    Plot(
        "Score drift",
        "Distance of the last hour's scores from the reference week: 0 the same, 1 disjoint. Alert above 0.15.",
        "short",
        (("veridict:score_drift:distance1h", ""),),
        "stat",
    ),
    Plot(
        "Images", "Judged in the last hour; alerts need 1000.", "short", (("veridict:images:increase1h", ""),), "stat"
    ),
    _share(
        "Share of deepfakes",
        "Last hour, and the reference week (the 7 days that ended a day ago).",
        ("veridict:deepfake_share:ratio1h", "last hour"),
        ("veridict:deepfake_share:reference7d", "reference"),
    ),
    _share(
        "Share of low confidence",
        "Images that a person should look at.",
        ("veridict:low_confidence_share:ratio1h", "last hour"),
        ("veridict:low_confidence_share:reference7d", "reference"),
    ),
    _share(
        "Scores",
        "Share of images by tenth of the fake probability (upper bound).",
        ("veridict:score_share:ratio1h", "{{tenth}}"),
        kind="stacked",
    ),
    _share(
        "Scores of the reference week",
        "The same, of the week before.",
        ("veridict:score_share:reference7d", "{{tenth}}"),
        kind="stacked",
    ),
    Plot(
        "Score drift by category",
        "Alert above 0.25 with 500 images.",
        "short",
        (("veridict:category_score_drift:distance1h", "{{category}}"),),
    ),
    _share("Categories", "Share of images.", ("veridict:category_share:ratio1h", "{{category}}"), kind="stacked"),
    _share(
        "Deepfakes by category",
        "Of the images of the category.",
        ("veridict:category_deepfake_share:ratio1h", "{{category}}"),
    ),
    _share(
        "Low confidence by category",
        "Of the images of the category.",
        ("veridict:category_low_confidence_share:ratio1h", "{{category}}"),
    ),
    _share(
        "Scores by category",
        "Share of images by category and tenth.",
        ("veridict:category_score_share:ratio1h", "{{category}} {{tenth}}"),
        kind="table",
    ),
)

EXPLAIN = (
    Plot("Jobs waiting", "That no worker has taken.", "short", (("veridict:explain_waiting:max", "{{priority}}"),)),
    Plot("Jobs in progress", "", "short", (("veridict:explain_in_progress:max", "{{priority}}"),)),
    Plot(
        "Age of the oldest job", "Alert above 300 s.", "s", (("veridict:explain_oldest_seconds:max", "{{priority}}"),)
    ),
    Plot("Dead letters", "Jobs that failed on every delivery.", "short", (("veridict:explain_dead_letters:max", ""),)),
    Plot(
        "Deliveries",
        "Per second, by outcome.",
        "reqps",
        (("sum by (outcome) (veridict:explain_jobs:rate5m)", "{{outcome}}"),),
        "stacked",
    ),
    Plot("Failures", "Per second, by cause.", "reqps", (("veridict:explain_failures:rate5m", "{{cause}}"),)),
    Plot("Seconds per method", "95th percentile.", "s", (("veridict:explain_seconds:p95_15m", "{{method}}"),)),
    Plot(
        "Paused for verdicts",
        "Seconds per second, over all workers.",
        "short",
        (("veridict:explain_paused_seconds:rate5m", ""),),
    ),
    Plot("Webhooks", "Per second.", "reqps", (("veridict:explain_webhooks:rate5m", "{{outcome}}"),)),
)

DASHBOARDS = {
    "veridict-service": ("Veridict: service", SERVICE),
    "veridict-models": ("Veridict: models", MODELS),
    "veridict-drift": ("Veridict: verdict drift", DRIFT),
    "veridict-explain": ("Veridict: explanations", EXPLAIN),
}


def _panel(plot: Plot, number: int) -> timeseries.Panel | stat.Panel | table.Panel:
    panel: timeseries.Panel | stat.Panel | table.Panel
    if plot.kind == "stat":
        last = common.ReduceDataOptions().calcs(["lastNotNull"])
        panel = stat.Panel().reduce_options(last).span(_STAT_WIDTH).height(_STAT_HEIGHT)
    elif plot.kind == "table":
        panel = table.Panel().show_header(True).span(_WIDTH).height(_HEIGHT)
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        panel = timeseries.Panel().span(_WIDTH).height(_HEIGHT).min(0).legend(legend.show_legend(True))
        if plot.kind == "stacked":
            panel = panel.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    panel = panel.id(number).title(plot.title).description(plot.text).unit(plot.unit).datasource(_SOURCE)
    for letter, (expression, legend_format) in zip("ABCDEFGH", plot.queries, strict=False):
        query = prometheus.Dataquery().expr(expression).ref_id(letter).datasource(_SOURCE)
        query = query.legend_format(legend_format or "__auto")
        panel = panel.with_target(
            query.instant().format(PromQueryFormat.TABLE) if plot.kind == "table" else query.range()
        )
    return panel


def build(uid: str) -> str:
    """Return the dashboard ``uid`` as JSON text."""
    title, plots = DASHBOARDS[uid]
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["veridict"])
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for number, plot in enumerate(plots, 1):
        built = built.with_panel(_panel(plot, number))
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build()) + "\n"


def main() -> int:
    """Write every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for uid in DASHBOARDS:
        (FOLDER / f"{uid}.json").write_text(build(uid))
    return 0


if __name__ == "__main__":
    sys.exit(main())
