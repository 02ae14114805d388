"""``veridict explain IMAGE...``: maps, arrays and a report per image, computed in this process or by workers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from veridict.client.connection import add_connection_arguments, connection_or_exit
from veridict.deploy import option_types

from .attribution import Attribution, Budget
from .errors import ExplainError
from .jobs.cli_worker import add_queue_arguments, queue_settings
from .methods import METHODS, get_methods

if TYPE_CHECKING:
    from veridict.client import ClientConfig
    from veridict.forensics.contract import Verdict

    from .models import Models
    from .subject import Subject

Results = dict[str, Attribution | ExplainError]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    budget = Budget()
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="JPEG, PNG or WebP files")
    parser.add_argument(
        "--methods", default="", help=f"comma-separated names (default: all that apply): {', '.join(METHODS)}"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("explanations"), help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--face",
        type=option_types.whole(0, 10000),
        help="which face, 0 is the largest (default: the most suspicious one)",
    )
    parser.add_argument(
        "--steps", type=option_types.whole(8, 4096), default=budget.steps, help="gradients for integrated gradients"
    )
    parser.add_argument(
        "--samples",
        type=option_types.whole(20, 20000),
        default=budget.samples,
        help="perturbed images for SHAP and LIME",
    )
    parser.add_argument(
        "--seconds", type=option_types.real(0.1, 3600.0), default=budget.seconds, help="time limit per method"
    )
    add_connection_arguments(parser, "server for the verdict, SHAP and LIME")
    parser.add_argument("--threads", type=option_types.whole(1, 1024), help="torch threads (default: half the cores)")
    parser.add_argument(
        "--queue", action="store_true", help="submit to the queue of veridict worker, and wait for the results"
    )
    parser.add_argument("--no-wait", action="store_true", help="with --queue: print the job ids and return")
    parser.add_argument("--batch-priority", action="store_true", help="with --queue: run after all live jobs")
    parser.add_argument(
        "--timeout", type=option_types.seconds, default=300.0, help="with --queue: seconds to wait for one image"
    )
    add_queue_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Explain every image; return 0, 1 if something failed, 2 for usage errors."""
    try:
        names = [name.strip() for name in arguments.methods.split(",") if name.strip()]
        chosen = [method.name for method in get_methods(names or METHODS)]
        budget = Budget(arguments.steps, arguments.samples, arguments.seconds)
        if arguments.no_wait and not arguments.queue:
            raise ExplainError("explain.bad_request", "--no-wait needs --queue")
        for path in arguments.images:
            if not path.is_file():
                raise ExplainError("explain.bad_request", f"no such file: {path}")
    except ExplainError as error:
        print(f"veridict explain: {error}", file=sys.stderr)
        return 2
    server = connection_or_exit(arguments)
    try:
        explain = _run_queue if arguments.queue else _run_here
        return explain(arguments, server, chosen, budget, asked=bool(names))
    except ImportError as error:
        print(f"veridict explain: {error}; it needs: pip install 'veridict[explain]'", file=sys.stderr)
    except (ExplainError, OSError, ValueError) as error:
        print(f"veridict explain: {error}", file=sys.stderr)
    return 1


def explain_image(subject: Subject, names: Iterable[str], models: Models, budget: Budget) -> Results:
    """Run methods one after the other. If one fails, its error is its result, and the others still run."""
    from .methods import run_method

    results: Results = {}
    for name in names:
        try:
            results[name] = run_method(name, subject, models, budget)
        except ExplainError as error:
            results[name] = error
    return results


def judge(data: bytes, server: ClientConfig) -> tuple[Verdict | None, str]:
    """Return the detector's verdict, or None and the reason: the report is also written without a verdict."""
    from veridict.client import DetectorClient, VeridictError

    try:
        with DetectorClient(config=replace(server, attempts=2)) as client:
            return client.detect(data), ""
    except (VeridictError, ValueError) as error:
        return None, f"{error} (is a server running? veridict serve)"


def write_results(folder: Path, name: str, data: bytes, results: Results, server: ClientConfig) -> Path:
    """Write a figure, the values and a JSON document per map, and the report; return the report's path."""
    import numpy as np

    from .reports.image_report import render_image_report
    from .reports.render import render_figure
    from .subject import read_subject

    subject = read_subject(data)
    folder.mkdir(parents=True, exist_ok=True)
    for method, result in results.items():
        if isinstance(result, Attribution):
            (folder / f"{method}.png").write_bytes(render_figure(result, subject.image.pixels))
            np.savez_compressed(folder / f"{method}.npz", values=result.values)
            (folder / f"{method}.json").write_text(json.dumps(result.document(), indent=1) + "\n")
    verdict, why_not = judge(data, server)
    report = folder / "report.html"
    report.write_text(render_image_report(name, subject, results, verdict, why_not), encoding="utf-8")
    return report


def _report(path: Path, results: Results, report: Path, asked: bool) -> int:
    """Print the results of one image; return how many methods failed.

    A method that does not apply to the image counts as failed only if the command line named it.
    """
    failed = 0
    print(f"{path}: {report}")
    for name, result in results.items():
        if isinstance(result, Attribution):
            print(f"  {name:<26} {result.seconds:6.1f} s")
        else:
            excused = not asked and result.code in ("explain.no_face", "explain.not_applicable")
            failed += not excused
            print(f"  {name:<26} {result}", file=sys.stdout if excused else sys.stderr)
    return failed


def output_folders(paths: Sequence[Path], output: Path) -> list[Path]:
    """Return a folder of its own for every image: ``output`` for one alone, else below it, named like the file.

    Files of one name, compared without case as some file systems do, get numbers: ``a.jpg``, ``a.jpg-2``.
    """
    if len(paths) == 1:
        return [output]
    taken: set[str] = set()
    folders = []
    for path in paths:
        name = path.name
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{path.name}-{number}"
        taken.add(name.casefold())
        folders.append(output / name)
    return folders


def _run_here(
    arguments: argparse.Namespace, server: ClientConfig, names: list[str], budget: Budget, *, asked: bool
) -> int:
    from .models import Models, set_threads
    from .subject import read_subject

    failed = 0
    set_threads(arguments.threads)
    models = Models(server=server, repository=queue_settings(arguments).repository)
    for path, folder in zip(arguments.images, output_folders(arguments.images, arguments.output), strict=True):
        data = path.read_bytes()
        try:
            subject = read_subject(data, arguments.face, models.score_faces)
        except ExplainError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        results = explain_image(subject, names, models, budget)
        report = write_results(folder, path.name, data, results, server)
        failed += _report(path, results, report, asked)
    return 1 if failed else 0


def _run_queue(
    arguments: argparse.Namespace, server: ClientConfig, names: list[str], budget: Budget, *, asked: bool
) -> int:
    from .jobs.client import ExplanationClient

    failed = 0
    with ExplanationClient(queue_settings(arguments)) as client:
        for path, folder in zip(arguments.images, output_folders(arguments.images, arguments.output), strict=True):
            submission = client.submit(
                path,
                names,
                priority="batch" if arguments.batch_priority else "live",
                face=arguments.face,
                budget=budget,
            )
            if arguments.no_wait:
                print(json.dumps({"path": str(path), "sha256": submission.sha256, "jobs": submission.jobs}))
                continue
            results: Results = {}
            for name, job in submission.jobs.items():
                try:
                    results[name] = client.wait(job, arguments.timeout)
                except ExplainError as error:
                    results[name] = error
            data = path.read_bytes()
            try:
                report = write_results(folder, path.name, data, results, server)
            except ExplainError as error:
                print(f"{path}: {error}", file=sys.stderr)
                failed += 1
                continue
            failed += _report(path, results, report, asked)
    return 1 if failed else 0
