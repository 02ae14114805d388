"""The parts of ``veridict bench``: each measures something and adds a section to the report."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

import numpy as np

from veridict.deploy.launcher import ServerSettings
from veridict.deploy.own_server import own_server
from veridict.forensics.decode import decode_image
from veridict.forensics.views import clip_view

from ..interleaved import measure_interleaved
from ..sample_images import SIZES, photograph
from ..tables import describe_background_load, serving_table
from .networks import CALLS_PER_TURN, measure_networks
from .onnx_session import has_cuda
from .pipelines import InProcessPipeline, PeerPipeline, TritonPipeline
from .processors import labelled_views, measure_processors
from .report import Report
from .serving import (
    ColdStart,
    choose_peers,
    cold_start_table,
    compare_pipelines,
    load_in_process,
    plan_serving_cases,
    plan_sweep_cases,
    running_peer,
    summarise_results,
    sweep_table,
    time_first_answer,
)
from .stages import model_load_table, profile_saturated, profile_sequential, stage_table


def add_networks(arguments: argparse.Namespace, report: Report) -> None:
    """Time the networks alone."""
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    gpu = "" if has_cuda() else " This onnxruntime has no CUDA provider: nothing was run on a GPU."
    note = f"Medians of calls, {CALLS_PER_TURN} calls per runtime in turn, {threads}, random pixels.{gpu}"
    report.add("Networks alone", note, measure_networks(arguments.repository, arguments.seconds, arguments.threads))


def add_processors(arguments: argparse.Namespace, report: Report) -> None:
    """Measure the image encoder as each kind of processor computes it, on labelled images where they are given."""
    if arguments.labelled is None:
        views, labels = np.stack([clip_view(decode_image(photograph(640, 480)).pixels)] * 8), [0] * 8
        note = "One photograph eight times: no AUC without --labelled."
    else:
        views, labels = labelled_views(arguments.labelled, arguments.images)
        note = f"{len(labels)} images of the val split, half of them fake."
    note += " Medians, all cores busy, one image per inference; other processors by limiting oneDNN's instructions."
    report.add("Processors", note, measure_processors(arguments.repository, views, labels, arguments.seconds))


def add_served_parts(arguments: argparse.Namespace, report: Report, stack: ExitStack) -> None:
    """Start the server and measure the parts that need it; closing ``stack`` stops everything that was started."""
    settings = ServerSettings(
        repository=arguments.repository, profile=arguments.profile, grpc_port=0, http_port=0, metrics_port=0
    )
    started = time.perf_counter()
    server = stack.enter_context(own_server(settings))
    ready = time.perf_counter() - started
    served = TritonPipeline(server)
    report.cold_starts.append(ColdStart(served.name, ready, time_first_answer(served, photograph(640, 480))))
    clients = max(arguments.concurrency)
    if "serving" in arguments.parts:
        _add_serving(arguments, report, served, stack)
    if "sweeps" in arguments.parts:
        for title, cases in plan_sweep_cases(served, clients).items():
            results = measure_interleaved(cases, arguments.rounds, arguments.seconds, title)
            report.add(f"Cost against {title}", sweep_table(title, results))
    if "stages" in arguments.parts:
        _add_stages(arguments, report, served, clients)


def _add_serving(arguments: argparse.Namespace, report: Report, served: TritonPipeline, stack: ExitStack) -> None:
    """Measure the serving table, the comparisons drawn from it, and the cold starts."""
    in_process: list[InProcessPipeline] = []
    if arguments.profile != "gpu":  # the in-process loop runs the CPU profile's networks
        in_process, cold_start = load_in_process(arguments.repository)
        report.cold_starts.append(cold_start)
    peers, notes = start_peers(arguments, report, stack) if arguments.peers else ([], [])
    cases = plan_serving_cases(served, in_process, peers, arguments.sizes, sorted(set(arguments.concurrency)))
    results = measure_interleaved(cases, arguments.rounds, arguments.seconds, "serving")
    report.rows += summarise_results(results)
    for size in arguments.sizes:
        report.comparisons += compare_pipelines(results, size)
    report.add(
        "Serving, warm",
        f"{arguments.rounds} interleaved rounds of {arguments.seconds:g} s per line. Rates and cores are medians over "
        "rounds; percentiles are over all requests. Cores and memory are those of the server's process tree; for the "
        "in-process loop, cores are those of the benchmark's process. The load generator is a closed loop of threads "
        "in the benchmark's process, on the same cores: gRPC for Veridict, keep-alive HTTP for the others. The last "
        "column is its own CPU time. Peers are suspended while another line is measured.",
        describe_background_load(block for blocks in results.values() for block in blocks),
        serving_table(report.rows),
        "\n".join(notes),
    )
    report.add("Cold starts", "The first answer is to a 640x480 image.", cold_start_table(report.cold_starts))


def start_peers(
    arguments: argparse.Namespace, report: Report, stack: ExitStack
) -> tuple[list[PeerPipeline], list[str]]:
    """Start the installed peers; return them, and a line per peer that describes it or says why it is left out."""
    pipelines, notes = [], []
    for peer in choose_peers(arguments.profile == "gpu"):
        if missing := peer.missing_packages():
            notes.append(
                f"- {peer.name}: left out, not installed: {', '.join(missing)} (pip install 'veridict[bench]')"
            )
            continue
        peer_context = running_peer(peer, arguments.repository, arguments.profile == "gpu")
        pipeline, cold_start = stack.enter_context(peer_context)
        pipelines.append(pipeline)
        report.cold_starts.append(cold_start)
        notes.append(f"- {peer.name}: {peer.note}.")
    return pipelines, notes


def _add_stages(arguments: argparse.Namespace, report: Report, served: TritonPipeline, clients: int) -> None:
    """Measure how the time of a request splits into stages, without and with load."""
    images = {size: photograph(*SIZES[size]) for size in arguments.sizes}
    seconds = arguments.seconds * arguments.rounds / 2
    for size, data in images.items():
        report.profiles.append(profile_sequential(served, size, data, seconds))
    loads = [load for size, data in images.items() for load in profile_saturated(served, size, data, clients, seconds)]
    report.add(
        "Where the milliseconds go",
        "One request at a time, means; the stages add up to the request.",
        stage_table(report.profiles),
        f"At concurrency {clients}, from Triton's statistics. Compute time counts a batch once, and the models compute "
        "at the same time on the same cores.",
        model_load_table(loads),
    )
