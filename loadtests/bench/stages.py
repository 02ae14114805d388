"""Where the milliseconds of an image go: the answer's own timings beside Triton's statistics per model."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import tritonclient.grpc as triton

from veridict.forensics import signature as sig

from ..closed_loop import drive
from ..tables import markdown, show
from .subjects import Served, encode_request

_NANO = 1e-6
#: Models on the request path in the order of the graph; ``preprocess`` calls the networks.
PATH = ("preprocess", "clip_image", "face_cnn", "fusion")
#: Stages that the answer times itself, in order, and what the table calls them.
OWN = {
    "decode": "decode",
    "shrink": "shrink",
    "forensics": "forensics",
    "faces": "face finding and crops",
    "view": "CLIP view",
}

#: What the answer counts as waiting: for a thread of the first step, and finished for the rest of its group.
WAITS = ("queue", "grouping")
#: What the answer says of the calls of the networks, from the first step's side.
CALLS = "networks"


@dataclass(frozen=True)
class Counters:
    """Triton's counters of one model since its start: requests, executions, and nanoseconds.

    ``queue`` and ``wall`` (compute) add up per request; ``work`` is compute time per execution, so a batch counts
    once.
    """

    requests: int
    rows: int
    executions: int
    queue: int
    wall: int
    work: int

    def __sub__(self, other: Counters) -> Counters:
        """Return what was counted between two moments."""
        return Counters(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def read_counters(client: triton.InferenceServerClient) -> dict[str, Counters]:
    """Return the counters of every model on the path, from the statistics extension of the protocol."""
    found = {}
    for model in client.get_inference_statistics().model_stats:
        if model.name in (*PATH, sig.DETECTOR.name):
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
class Profile:
    """One picture size at concurrency 1: mean milliseconds per image, by stage, and of the whole request."""

    image: str
    stages: dict[str, float]
    total: float


def account(
    image: str, own: dict[str, float], spent: dict[str, Counters], images: int, total: float, client: float = 0.0
) -> Profile:
    """Return the stages that add up to ``total``, the mean latency in milliseconds that the client saw.

    ``own`` are the answer's mean timings; ``spent`` what Triton counted; ``client`` is the caller's CPU time per image,
    shown as part of the rest.
    """

    def per_image(nanoseconds: int) -> float:
        return nanoseconds * _NANO / images

    wall = {name: per_image(c.wall) for name, c in spent.items()}
    queue = sum(per_image(spent[name].queue) for name in PATH)
    measured = {label: own.get(name, 0.0) for name, label in OWN.items()}
    waited = sum(own.get(name, 0.0) for name in WAITS)
    # The two are called at the same time for a lone image, so the longer one counts.
    called = [wall[name] + per_image(spent[name].queue) for name in ("clip_image", "face_cnn")]
    stages = {
        **measured,
        "preprocess: taking in, waiting for a thread and for others": wall["preprocess"] + waited,
        "CLIP encoder": wall["clip_image"],
        "face CNN": wall["face_cnn"],
        "calling them": own.get(CALLS, 0.0) - max(called),
        "fusion": wall["fusion"],
        "queues": queue,
        "at the same time (encoder and face CNN)": -min(called),
    }
    rest = total - sum(stages.values())
    stages["gRPC, ensemble scheduling, handing on, client"] = rest
    if client:
        stages["(of it the client's CPU)"] = client
    return Profile(image, stages, total)


def profile_alone(served: Served, image: str, data: bytes, seconds: float) -> Profile:
    """Return where the time of one image after the other goes."""
    with triton.InferenceServerClient(served.url) as client:
        wanted = [triton.InferRequestedOutput(sig.VERDICT.name)]

        def judge() -> bytes:
            answer = client.infer(sig.DETECTOR.name, [encode_request(data, 1)], outputs=wanted, client_timeout=120.0)
            return bytes(answer.as_numpy(sig.VERDICT.name).ravel()[0])

        for _ in range(3):
            judge()
        before, cpu = read_counters(client), time.process_time()
        latencies, documents = _repeat(judge, seconds)
        cpu = time.process_time() - cpu
        after = read_counters(client)
    timings = [json.loads(d)["timings_ms"] for d in documents]
    own = {name: statistics.fmean(t.get(name, 0.0) for t in timings) for name in (*OWN, *WAITS, CALLS)}
    spent = {name: after[name] - before[name] for name in after}
    count = len(documents)
    return account(image, own, spent, count, statistics.fmean(latencies), 1e3 * cpu / count)


def _repeat(judge: Callable[[], bytes], seconds: float) -> tuple[list[float], list[bytes]]:
    latencies, documents = [], []
    ends = time.perf_counter() + seconds
    while (started := time.perf_counter()) < ends:
        documents.append(judge())
        latencies.append(1e3 * (time.perf_counter() - started))
    return latencies, documents


def profile_table(profiles: list[Profile]) -> str:
    """Return the Markdown table: a line per stage, a column per picture size, with its share of the request."""
    lines = []
    for stage in profiles[0].stages:
        cells = [f"{show(p.stages[stage], 2)} ({p.stages[stage] / p.total:.0%})" for p in profiles]
        lines.append((stage, *cells))
    lines.append(("request, as the client sees it", *(show(p.total, 2) for p in profiles)))
    return markdown(("stage, ms per image", *(p.image for p in profiles)), lines)


@dataclass(frozen=True)
class Load:
    """One model under load: rows per execution, milliseconds in its queue per request, and of work per image.

    Of ``preprocess`` only what it takes to accept a request: it answers later, and its work is not Triton's to count.
    """

    image: str
    model: str
    rows_per_execution: float
    queue_ms: float
    work_ms: float


def profile_loaded(served: Served, image: str, data: bytes, clients: int, seconds: float) -> list[Load]:
    """Return how each model of the path fares at saturation."""
    with triton.InferenceServerClient(served.url) as client:
        before = read_counters(client)
        drive(lambda: served.connect(data), clients, seconds, served.tree, lead=0.0)
        after = read_counters(client)
    spent = {name: after[name] - before[name] for name in after}
    images = max(1, spent["fusion"].rows)
    return [
        Load(
            image,
            name,
            spent[name].rows / spent[name].executions if spent[name].executions else 0.0,
            spent[name].queue * _NANO / max(1, spent[name].requests),
            spent[name].work * _NANO / images,
        )
        for name in PATH
    ]


def load_table(loads: list[Load]) -> str:
    """Return the Markdown table of the models under load."""
    header = ("image", "model", "rows per execution", "queue ms per request", "compute ms per image")
    return markdown(
        header, [(x.image, x.model, show(x.rows_per_execution), show(x.queue_ms, 2), show(x.work_ms, 2)) for x in loads]
    )
