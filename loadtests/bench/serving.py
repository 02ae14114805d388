"""The serving part of ``veridict bench``: which cases are measured, and which comparisons are drawn from them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from veridict.deploy.serving.processor import usable_cores
from veridict.export.pipeline import InProcessDetector

from ..closed_loop import Block
from ..interleaved import Case, Results
from ..sample_images import FACE_COUNTS, MEGAPIXELS, SIZES, photograph, portraits
from ..tables import (
    Comparison,
    ServingRow,
    compare_medians,
    compare_rates,
    format_number,
    markdown_table,
    summarise_blocks,
)
from .peers import FASTAPI_ONNX, FASTAPI_SAME, LITSERVE, PEERS, TEXTBOOK, TEXTBOOK_NLM, Peer, PeerServer
from .pipelines import IN_PROCESS, InProcessPipeline, PeerPipeline, Pipeline, TritonPipeline

#: Images per call of the in-process loop in batches, and per request of the served line that is compared with it.
IN_PROCESS_BATCH = 8
#: Clients of that served line.
_BATCH_CLIENTS = 4
#: Images per request in the sweep over batch sizes; the detector takes up to 32.
BATCHES = (1, 2, 4, 8, 16, 32)
#: Targets of the comparisons: served over in-process throughput, added p50 latency in milliseconds, served over
#: textbook throughput, and served over any other peer's throughput.
SATURATION_TARGET, OVERHEAD_TARGET, TEXTBOOK_TARGET, PEER_TARGET = 0.90, 5.0, 5.0, 1.0
#: Clients of a peer that judges one image at a time: one request is served while another waits.
_SERIAL_CLIENTS = 2


@dataclass(frozen=True)
class ColdStart:
    """Seconds from start to ready, and milliseconds of the first answer after that."""

    name: str
    ready_seconds: float
    first_answer_ms: float


def time_first_answer(pipeline: Pipeline, data: bytes) -> float:
    """Return the milliseconds of one call, including the connection."""
    started = time.perf_counter()
    with pipeline.connect(data, 1) as call:
        call()
    return 1e3 * (time.perf_counter() - started)


def load_in_process(repository: Path) -> tuple[list[InProcessPipeline], ColdStart]:
    """Return the in-process loops over one detector on all cores: single images, batches, and overlapping batches."""
    started = time.perf_counter()
    detector = InProcessDetector(repository, threads=usable_cores())
    ready = time.perf_counter() - started
    loops = [
        InProcessPipeline(detector, 1),
        InProcessPipeline(detector, IN_PROCESS_BATCH),
        InProcessPipeline(detector, IN_PROCESS_BATCH, overlap=2),
    ]
    return loops, ColdStart(IN_PROCESS, ready, time_first_answer(loops[0], photograph(640, 480)))


@contextmanager
def running_peer(peer: Peer, repository: Path, cuda: bool) -> Iterator[tuple[PeerPipeline, ColdStart]]:
    """Start a peer, yield it suspended together with its cold start, and stop it."""
    with PeerServer(peer, repository, cuda=cuda) as server:
        pipeline = PeerPipeline(server)
        cold_start = ColdStart(peer.name, server.seconds_to_ready, time_first_answer(pipeline, photograph(640, 480)))
        pipeline.pause()
        try:
            yield pipeline, cold_start
        finally:
            pipeline.resume()


def choose_peers(gpu: bool) -> list[Peer]:
    """Return the peers to compare with: all, or with ``gpu`` those whose networks can run on a GPU."""
    return [peer for peer in PEERS if not gpu or peer in (TEXTBOOK, FASTAPI_ONNX)]


def plan_serving_cases(
    served: TritonPipeline,
    in_process: Sequence[InProcessPipeline],
    peers: Sequence[PeerPipeline],
    sizes: Sequence[str],
    concurrency: Sequence[int],
) -> list[Case]:
    """Return the cases of the serving table; peers are measured at the smallest and the largest concurrency.

    Where there is an in-process loop, the served detector is also measured with its batch size per request.
    """
    cases = []
    for size in sizes:
        data = photograph(*SIZES[size])
        cases += [Case(loop, size, data, loop.overlap) for loop in in_process]
        cases += [Case(served, size, data, clients) for clients in concurrency]
        if in_process:
            cases.append(Case(served, size, data, _BATCH_CLIENTS, IN_PROCESS_BATCH))
        for peer in peers:
            if peer.name == TEXTBOOK_NLM.name:
                # It takes seconds per image: one round, one client.
                cases.append(Case(peer, size, data, 1, first_round_only=True))
                continue
            most = min(max(concurrency), _SERIAL_CLIENTS) if peer.serial else max(concurrency)
            cases += [Case(peer, size, data, clients) for clients in sorted({min(concurrency), most})]
    return cases


def summarise_results(results: Results) -> list[ServingRow]:
    """Return the rows of the serving table."""
    return [
        summarise_blocks(
            case.pipeline.name + (f", {case.batch} per request" if case.batch > 1 else ""),
            case.image,
            case.concurrency,
            blocks,
            case.pipeline.in_process,
        )
        for case, blocks in results.items()
    ]


def _fastest(candidates: Sequence[list[Block]]) -> list[Block]:
    return max(candidates, key=lambda blocks: statistics.median(b.rate for b in blocks))


def compare_pipelines(results: Results, size: str) -> list[Comparison]:
    """Return the comparisons at one image size: with the in-process loop and with every peer that ran."""

    def blocks_of(name: str) -> list[list[Block]]:
        return [b for c, b in results.items() if c.image == size and c.pipeline.name.startswith(name) and b]

    served = {c: b for c, b in results.items() if c.image == size and isinstance(c.pipeline, TritonPipeline)}
    by_concurrency = {c.concurrency: b for c, b in served.items() if c.batch == 1}
    ours = _fastest(list(by_concurrency.values()))
    comparisons = []
    if batches := blocks_of(f"{IN_PROCESS}, batches"):
        what = f"served at saturation / best {IN_PROCESS} in batches"
        comparisons.append(compare_rates(what, size, ours, _fastest(batches), SATURATION_TARGET))
        if alike := [b for c, b in served.items() if c.batch == IN_PROCESS_BATCH]:
            what = f"served, {IN_PROCESS_BATCH} images per request / best {IN_PROCESS} in batches of {IN_PROCESS_BATCH}"
            comparisons.append(compare_rates(what, size, alike[0], _fastest(batches), SATURATION_TARGET))
    if single := blocks_of(f"{IN_PROCESS}, one"):
        what = f"served at saturation / {IN_PROCESS}, one at a time"
        comparisons.append(compare_rates(what, size, ours, single[0], SATURATION_TARGET))
        if 1 in by_concurrency:
            what = f"p50 served at concurrency 1 - p50 of the {IN_PROCESS}"
            comparisons.append(compare_medians(what, size, by_concurrency[1], single[0], OVERHEAD_TARGET))
    targets = {
        TEXTBOOK: TEXTBOOK_TARGET,
        TEXTBOOK_NLM: TEXTBOOK_TARGET,
        FASTAPI_ONNX: PEER_TARGET,
        FASTAPI_SAME: PEER_TARGET,
        LITSERVE: PEER_TARGET,
    }
    for peer, target in targets.items():
        theirs = [b for c, b in results.items() if c.image == size and c.pipeline.name == peer.name and b]
        if theirs:
            what = f"served / {peer.name}, at saturation"
            comparisons.append(compare_rates(what, size, ours, _fastest(theirs), target))
    return comparisons


def plan_sweep_cases(served: TritonPipeline, clients: int) -> dict[str, list[Case]]:
    """Return the cases of the sweeps over megapixels, faces and images per request, at saturation."""
    data = photograph(*SIZES["640x480"])
    return {
        "megapixels": [
            Case(served, f"{name} ({width * height / 1e6:.1f} MP)", photograph(width, height), clients)
            for name, (width, height) in MEGAPIXELS.items()
        ],
        "faces": [Case(served, f"{faces} faces", portraits(faces), clients) for faces in FACE_COUNTS],
        # As many images in flight as in the other lines, in ever fewer requests, but never fewer than two.
        "images per request": [
            Case(served, f"{batch} per request", data, max(2, clients // batch), batch) for batch in BATCHES
        ],
    }


def sweep_table(title: str, results: Results) -> str:
    """Return the Markdown table of one sweep; "cost" is the time per image over that of the first line."""
    lines = []
    first = 0.0
    for case, blocks in results.items():
        rate = statistics.median(b.rate for b in blocks)
        cpu = statistics.median(1e3 * (b.server_cpu or 0.0) / b.images for b in blocks)
        p50 = statistics.median(value for b in blocks for value in b.latencies)
        first = first or 1e3 / rate
        figures = (format_number(rate), format_number(1e3 / rate), format_number(cpu), format_number(p50))
        lines.append((case.image, str(case.concurrency), *figures, f"{1e3 / rate / first:.2f}"))
    header = (title, "concurrency", "images/s", "ms/image", "server CPU ms/image", "p50 ms of a request", "cost")
    return markdown_table(header, lines)


def cold_start_table(starts: Sequence[ColdStart]) -> str:
    """Return the Markdown table of cold starts."""
    header = ("pipeline", "start to ready, s", "first answer, ms")
    rows = [(s.name, format_number(s.ready_seconds), format_number(s.first_answer_ms)) for s in starts]
    return markdown_table(header, rows)
