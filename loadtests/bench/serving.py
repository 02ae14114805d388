"""The serving part of ``veridict bench``: who is measured at what, and the comparisons that are drawn from it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from veridict.deploy.serving.openvino_runtime import usable_cores
from veridict.export.pipeline import InProcessDetector

from ..closed_loop import Block
from ..rounds import Results, Task
from ..sample_images import FACES, MEGAPIXELS, SIZES, crowd, photograph
from ..tables import Ratio, Row, compare_medians, compare_rates, markdown, show, summarise
from .peers import FASTAPI_ONNX, FASTAPI_SAME, LITSERVE, PEERS, TEXTBOOK, TEXTBOOK_NLM, Peer, PeerServer
from .subjects import Bare, PeerSubject, Served, Subject

#: Images per call of the bare loop, and per request of the served line that is its like.
BARE_BATCH = 8
#: Requests of that many images at once.
_BATCH_CLIENTS = 4
#: Images per request in the sweep over batch sizes; the detector takes up to 32.
BATCHES = (1, 2, 4, 8, 16, 32)
#: What the comparisons are held to.
SATURATION_TARGET, OVERHEAD_TARGET, TEXTBOOK_TARGET, AHEAD = 0.90, 5.0, 5.0, 1.0
#: Clients of a peer that judges one image at a time: one is served while one waits.
_SERIAL_CLIENTS = 2


@dataclass(frozen=True)
class Cold:
    """Seconds from start to ready, and milliseconds of the first answer after it."""

    name: str
    ready_seconds: float
    first_answer_ms: float


def first_answer(subject: Subject, data: bytes) -> float:
    """Return the milliseconds of one call, connection included."""
    started = time.perf_counter()
    with subject.connect(data, 1) as call:
        call()
    return 1e3 * (time.perf_counter() - started)


def load_bare(repository: Path) -> tuple[list[Bare], Cold]:
    """Return the bare loops (one at a time, in batches, in overlapping batches) over one detector on all cores."""
    started = time.perf_counter()
    detector = InProcessDetector(repository, threads=usable_cores())
    ready = time.perf_counter() - started
    loops = [Bare(detector, 1), Bare(detector, BARE_BATCH), Bare(detector, BARE_BATCH, overlap=2)]
    return loops, Cold("bare loop", ready, first_answer(loops[0], photograph(640, 480)))


@contextmanager
def running_peer(peer: Peer, repository: Path, cuda: bool) -> Iterator[tuple[PeerSubject, Cold]]:
    """Start a peer, yield it with its cold figures, and stop it."""
    with PeerServer(peer, repository, cuda=cuda) as server:
        subject = PeerSubject(server)
        cold = Cold(peer.name, server.seconds_to_ready, first_answer(subject, photograph(640, 480)))
        subject.pause()
        try:
            yield subject, cold
        finally:
            subject.resume()


def choose_peers(gpu: bool) -> list[Peer]:
    """Return the peers that make sense: on a GPU only those whose networks can run there."""
    return [peer for peer in PEERS if not gpu or peer in (TEXTBOOK, FASTAPI_ONNX)]


def plan_serving(
    served: Served, bare: Sequence[Bare], peers: Sequence[PeerSubject], sizes: Sequence[str], concurrency: Sequence[int]
) -> list[Task]:
    """Return the tasks of the serving table; peers run alone and at the largest concurrency.

    The served detector also gets what the bare loop in batches gets: several images per call.
    """
    tasks = []
    for size in sizes:
        data = photograph(*SIZES[size])
        tasks += [Task(loop, size, data, loop.overlap) for loop in bare]
        tasks += [Task(served, size, data, clients) for clients in concurrency]
        if bare:
            tasks.append(Task(served, size, data, _BATCH_CLIENTS, BARE_BATCH))
        for peer in peers:
            if peer.name == TEXTBOOK_NLM.name:
                # Seconds per picture: one round, one client.
                tasks.append(Task(peer, size, data, 1, once=True))
                continue
            most = min(max(concurrency), _SERIAL_CLIENTS) if peer.serial else max(concurrency)
            tasks += [Task(peer, size, data, clients) for clients in sorted({min(concurrency), most})]
    return tasks


def rows_of(results: Results) -> list[Row]:
    """Return the serving table's rows."""
    return [
        summarise(
            task.subject.name + (f", {task.batch} per request" if task.batch > 1 else ""),
            task.image,
            task.concurrency,
            blocks,
            task.subject.in_process,
        )
        for task, blocks in results.items()
    ]


def _best(candidates: Sequence[list[Block]]) -> list[Block]:
    return max(candidates, key=lambda blocks: statistics.median(b.rate for b in blocks))


def compare(results: Results, size: str) -> list[Ratio]:
    """Return the comparisons of one picture size: with the bare computation and with every peer that ran."""

    def blocks_of(name: str) -> list[list[Block]]:
        return [b for t, b in results.items() if t.image == size and t.subject.name.startswith(name) and b]

    mine = {t: b for t, b in results.items() if t.image == size and isinstance(t.subject, Served)}
    served = {t.concurrency: b for t, b in mine.items() if t.batch == 1}
    ours = _best(list(served.values()))
    ratios = []
    if batches := blocks_of("bare loop, batches"):
        what = "served at saturation / best bare loop in batches"
        ratios.append(compare_rates(what, size, ours, _best(batches), SATURATION_TARGET))
        if alike := [b for t, b in mine.items() if t.batch == BARE_BATCH]:
            what = f"served, {BARE_BATCH} images per request / best bare loop in batches of {BARE_BATCH}"
            ratios.append(compare_rates(what, size, alike[0], _best(batches), SATURATION_TARGET))
    if alone := blocks_of("bare loop, one"):
        what = "served at saturation / bare loop, one at a time"
        ratios.append(compare_rates(what, size, ours, alone[0], SATURATION_TARGET))
        if 1 in served:
            what = "p50 of serving at concurrency 1 - bare computation"
            ratios.append(compare_medians(what, size, served[1], alone[0], OVERHEAD_TARGET))
    targets = {
        TEXTBOOK: TEXTBOOK_TARGET,
        TEXTBOOK_NLM: TEXTBOOK_TARGET,
        FASTAPI_ONNX: AHEAD,
        FASTAPI_SAME: AHEAD,
        LITSERVE: AHEAD,
    }
    for peer, target in targets.items():
        theirs = [b for t, b in results.items() if t.image == size and t.subject.name == peer.name and b]
        if theirs:
            ratios.append(compare_rates(f"served / {peer.name}, at saturation", size, ours, _best(theirs), target))
    return ratios


def plan_sweeps(served: Served, clients: int) -> dict[str, list[Task]]:
    """Return the tasks of the sweeps over megapixels, faces and images per request, at saturation."""
    data = photograph(*SIZES["640x480"])
    return {
        "megapixels": [
            Task(served, f"{name} ({width * height / 1e6:.1f} MP)", photograph(width, height), clients)
            for name, (width, height) in MEGAPIXELS.items()
        ],
        "faces": [Task(served, f"{faces} faces", crowd(faces), clients) for faces in FACES],
        # As many images under way as in the other lines, in ever fewer requests; never fewer than two.
        "images per request": [
            Task(served, f"{batch} per request", data, max(2, clients // batch), batch) for batch in BATCHES
        ],
    }


def sweep_table(title: str, results: Results) -> str:
    """Return the Markdown table of one sweep; cost is the machine's time per image, against the first line's."""
    lines = []
    base = 0.0
    for task, blocks in results.items():
        rate = statistics.median(b.rate for b in blocks)
        cpu = statistics.median(1e3 * (b.server_cpu or 0.0) / b.images for b in blocks)
        p50 = statistics.median(value for b in blocks for value in b.latencies)
        base = base or 1e3 / rate
        figures = (show(rate), show(1e3 / rate), show(cpu), show(p50), f"{1e3 / rate / base:.2f}")
        lines.append((task.image, str(task.concurrency), *figures))
    header = (title, "concurrency", "images/s", "ms/image", "server CPU ms/image", "p50 ms of a request", "cost")
    return markdown(header, lines)


def cold_table(cold: Sequence[Cold]) -> str:
    """Return the Markdown table of cold starts."""
    header = ("pipeline", "start to ready, s", "first answer, ms")
    return markdown(header, [(c.name, show(c.ready_seconds), show(c.first_answer_ms)) for c in cold])
