"""Splits the time of a request into stages: the answer's own timings and Triton's statistics per model."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import tritonclient.grpc as triton

from veridict.forensics import signature as sig

from ..closed_loop import run_closed_loop
from ..tables import format_number, markdown_table
from .pipelines import TritonPipeline, encode_request

_MS_PER_NS = 1e-6
#: Models on the request path in the order of the graph; ``preprocess`` calls the networks.
REQUEST_PATH = ("preprocess", "clip_image", "face_cnn", "fusion")
#: Stages that the answer times itself, in order: their keys in ``timings_ms`` and their names in the table.
TIMED_STAGES = {
    "decode": "decode",
    "shrink": "shrink",
    "forensics": "forensics",
    "faces": "face finding and crops",
    "view": "CLIP view",
    "provenance": "provenance",
    "hash": "PDQ hash",
}
#: Keys of ``timings_ms`` for the time that an image waits: for a thread of ``preprocess``, and for its batch.
WAITING_STAGES = ("queue", "grouping")
#: Key of ``timings_ms`` for the calls of the networks, as ``preprocess`` sees them.
NETWORK_CALLS = "networks"


@dataclass(frozen=True)
class Counters:
    """Triton's counters of one model since its start: requests, executions, and nanoseconds.

    ``queue_ns`` and ``compute_ns`` are sums over requests. ``batch_compute_ns`` is the sum over executions, so that a
    batch counts once.
    """

    requests: int
    rows: int
    executions: int
    queue_ns: int
    compute_ns: int
    batch_compute_ns: int

    def __sub__(self, other: Counters) -> Counters:
        """Return what was counted between two readings."""
        return Counters(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def read_counters(client: triton.InferenceServerClient) -> dict[str, Counters]:
    """Return the counters of every model on the request path, from Triton's statistics extension."""
    found = {}
    for model in client.get_inference_statistics().model_stats:
        if model.name in (*REQUEST_PATH, sig.DETECTOR.name):
            stats = model.inference_stats
            compute = (stats.compute_input.ns, stats.compute_infer.ns, stats.compute_output.ns)
            batches = (b.compute_input.ns + b.compute_infer.ns + b.compute_output.ns for b in model.batch_stats)
            found[model.name] = Counters(
                int(stats.success.count),
                int(model.inference_count),
                int(model.execution_count),
                int(stats.queue.ns),
                int(sum(compute)),
                int(sum(batches)),
            )
    return found


@dataclass(frozen=True)
class StageProfile:
    """Mean milliseconds per image at concurrency 1 for one image size, by stage and of the whole request."""

    image: str
    stages: dict[str, float]
    total: float


def attribute_latency(
    image: str, timings: dict[str, float], counted: dict[str, Counters], images: int, total: float, client: float = 0.0
) -> StageProfile:
    """Return the stages that add up to ``total``, the mean latency in milliseconds that the client measured.

    ``timings`` are the answers' mean timings in milliseconds; ``counted`` is what Triton counted for the ``images``;
    ``client`` is the client's CPU time per image in milliseconds, shown as a part of the last stage.
    """

    def per_image(nanoseconds: int) -> float:
        return nanoseconds * _MS_PER_NS / images

    compute = {name: per_image(c.compute_ns) for name, c in counted.items()}
    queues = sum(per_image(counted[name].queue_ns) for name in REQUEST_PATH)
    waited = sum(timings.get(name, 0.0) for name in WAITING_STAGES)
    # For a single image both networks are called at the same time, so only the longer call counts.
    calls = [compute[name] + per_image(counted[name].queue_ns) for name in ("clip_image", "face_cnn")]
    stages = {
        **{label: timings.get(name, 0.0) for name, label in TIMED_STAGES.items()},
        "preprocess: intake, waiting for a thread and for a batch": compute["preprocess"] + waited,
        "CLIP encoder": compute["clip_image"],
        "face CNN": compute["face_cnn"],
        "overhead of calling both networks": timings.get(NETWORK_CALLS, 0.0) - max(calls),
        "fusion": compute["fusion"],
        "queues": queues,
        "overlap of CLIP encoder and face CNN": -min(calls),
    }
    stages["gRPC, ensemble scheduling, data transfer, client"] = total - sum(stages.values())
    if client:
        stages["(CPU time of the client, part of the line above)"] = client
    return StageProfile(image, stages, total)


def profile_sequential(served: TritonPipeline, image: str, data: bytes, seconds: float) -> StageProfile:
    """Return the stage profile of requests sent one after the other."""
    with triton.InferenceServerClient(served.url) as client:
        outputs = [triton.InferRequestedOutput(sig.VERDICT.name)]

        def detect() -> bytes:
            answer = client.infer(sig.DETECTOR.name, [encode_request(data, 1)], outputs=outputs, client_timeout=120.0)
            return bytes(answer.as_numpy(sig.VERDICT.name).ravel()[0])

        for _ in range(3):
            detect()
        before, cpu = read_counters(client), time.process_time()
        latencies, documents = _repeat(detect, seconds)
        cpu = time.process_time() - cpu
        after = read_counters(client)
    answers = [json.loads(d)["timings_ms"] for d in documents]
    keys = (*TIMED_STAGES, *WAITING_STAGES, NETWORK_CALLS)
    timings = {key: statistics.fmean(t.get(key, 0.0) for t in answers) for key in keys}
    counted = {name: after[name] - before[name] for name in after}
    count = len(documents)
    return attribute_latency(image, timings, counted, count, statistics.fmean(latencies), 1e3 * cpu / count)


def _repeat(detect: Callable[[], bytes], seconds: float) -> tuple[list[float], list[bytes]]:
    """Call ``detect`` for ``seconds``; return the latencies in milliseconds and the answers."""
    latencies, documents = [], []
    ends = time.perf_counter() + seconds
    while (started := time.perf_counter()) < ends:
        documents.append(detect())
        latencies.append(1e3 * (time.perf_counter() - started))
    return latencies, documents


def stage_table(profiles: list[StageProfile]) -> str:
    """Return the Markdown table: a row per stage, a column per image size, with the stage's share of the request."""
    rows = []
    for stage in profiles[0].stages:
        cells = [f"{format_number(p.stages[stage], 2)} ({p.stages[stage] / p.total:.0%})" for p in profiles]
        rows.append((stage, *cells))
    rows.append(("request, as the client sees it", *(format_number(p.total, 2) for p in profiles)))
    return markdown_table(("stage, ms per image", *(p.image for p in profiles)), rows)


@dataclass(frozen=True)
class ModelLoad:
    """One model under load: rows per execution, queue milliseconds per request, and compute milliseconds per image.

    For ``preprocess`` Triton counts only the intake of a request: the model answers later, outside the execution.
    """

    image: str
    model: str
    rows_per_execution: float
    queue_ms: float
    compute_ms: float


def profile_saturated(served: TritonPipeline, image: str, data: bytes, clients: int, seconds: float) -> list[ModelLoad]:
    """Return the load of every model on the request path at saturation."""
    with triton.InferenceServerClient(served.url) as client:
        before = read_counters(client)
        run_closed_loop(lambda: served.connect(data), clients, seconds, served.tree, warm_up=0.0)
        after = read_counters(client)
    counted = {name: after[name] - before[name] for name in after}
    images = max(1, counted["fusion"].rows)
    return [
        ModelLoad(
            image,
            name,
            counted[name].rows / counted[name].executions if counted[name].executions else 0.0,
            counted[name].queue_ns * _MS_PER_NS / max(1, counted[name].requests),
            counted[name].batch_compute_ns * _MS_PER_NS / images,
        )
        for name in REQUEST_PATH
    ]


def model_load_table(loads: list[ModelLoad]) -> str:
    """Return the Markdown table of the models under load."""
    header = ("image", "model", "rows per execution", "queue ms per request", "compute ms per image")
    rows = [
        (
            load.image,
            load.model,
            format_number(load.rows_per_execution),
            format_number(load.queue_ms, 2),
            format_number(load.compute_ms, 2),
        )
        for load in loads
    ]
    return markdown_table(header, rows)
