"""Runs the load generator in a process of its own and reads its outcomes.

The generator uses gevent, which patches the standard library of its process; the command, the server's launcher and the
tests must not be patched.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from veridict.client import ClientConfig, Tls

from .outcomes import Outcome, Request, read_outcomes
from .payloads import Sample

#: Seconds that the generator may take beyond the run itself, for its start, the last answers and its end.
_GRACE = 45.0


class GeneratorError(RuntimeError):
    """The load generator failed; the message says how."""


@dataclass(frozen=True)
class Target:
    """The server under load and how the client calls it.

    ``url`` is host:port of the gRPC endpoint, ``deadline`` the seconds for one request, and ``throttle`` the setting of
    the client's throttle.
    """

    url: str
    deadline: float = 5.0
    tls: Tls | None = None
    throttle: float = ClientConfig.throttle


@dataclass(frozen=True)
class Plan:
    """What the generator does and where it writes.

    With ``users`` = 0 it sends every request when it is due (open loop); else that many users send the requests in a
    closed loop for ``seconds``. It writes outcomes and locust's statistics to the two files.
    """

    target: Target
    samples: Sequence[Sample]
    requests: Sequence[Request]
    users: int
    seconds: float
    outcome_file: Path
    statistics_file: Path


@dataclass(frozen=True)
class LocustStatistics:
    """A line of locust's own statistics; latencies in milliseconds, counted from when the requests were due."""

    name: str
    requests: int
    failures: int
    median_ms: float
    p99_ms: float
    requests_per_second: float


def write_plan(folder: Path, plan: Plan) -> Path:
    """Write the plan and its samples into ``folder`` and return the path of the plan."""
    for number, sample in enumerate(plan.samples):
        (folder / f"{number}.sample").write_bytes(sample.data)
    tls = plan.target.tls
    document = {
        "target": vars(plan.target) | {"tls": tls and {name: path and str(path) for name, path in vars(tls).items()}},
        "samples": [{"name": s.name, "expected_codes": s.expected_codes} for s in plan.samples],
        "requests": [[r.id, r.due, r.sample] for r in plan.requests],
        "users": plan.users,
        "seconds": plan.seconds,
        "outcome_file": str(plan.outcome_file),
        "statistics_file": str(plan.statistics_file),
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(document))
    return path


def read_plan(path: Path) -> Plan:
    """Return the plan that :func:`write_plan` wrote."""
    document = json.loads(path.read_text())
    target = document["target"]
    tls = target["tls"] and Tls(**{name: value and Path(value) for name, value in target["tls"].items()})
    samples = [
        Sample(s["name"], (path.parent / f"{number}.sample").read_bytes(), tuple(s["expected_codes"]))
        for number, s in enumerate(document["samples"])
    ]
    requests = [Request(*row) for row in document["requests"]]
    return Plan(
        target=Target(**target | {"tls": tls}),
        samples=samples,
        requests=requests,
        users=document["users"],
        seconds=document["seconds"],
        outcome_file=Path(document["outcome_file"]),
        statistics_file=Path(document["statistics_file"]),
    )


def write_statistics(path: Path, statistics: Sequence[LocustStatistics]) -> None:
    """Write locust's statistics as JSON."""
    path.write_text(json.dumps([asdict(s) for s in statistics]))


def _generate(
    target: Target, samples: Sequence[Sample], requests: Sequence[Request], users: int, seconds: float
) -> tuple[list[Outcome], list[LocustStatistics]]:
    """Run the generator's process with a plan; return the outcomes and locust's statistics.

    Raises:
        GeneratorError: the process failed.
    """
    with tempfile.TemporaryDirectory(prefix="veridict-load-") as name:
        folder = Path(name)
        outcome_file, statistics_file = folder / "outcomes.jsonl", folder / "locust.json"
        plan = Plan(target, samples, requests, users, seconds, outcome_file, statistics_file)
        command = [sys.executable, "-m", "veridict.loadtests.load.users", str(write_plan(folder, plan))]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        status = None
        try:
            status = process.wait(seconds + target.deadline + _GRACE)
        except subprocess.TimeoutExpired:
            # The outcomes written so far still count; the other requests count as lost.
            print("the load generator does not end and is stopped", file=sys.stderr, flush=True)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status:
            raise GeneratorError(f"the load generator ended with status {status}; its error message is printed above")
        rows = json.loads(statistics_file.read_text()) if statistics_file.exists() else []
        return read_outcomes(outcome_file), [LocustStatistics(**row) for row in rows]


def send_open_loop(
    target: Target, samples: Sequence[Sample], requests: Sequence[Request], seconds: float
) -> tuple[list[Outcome], list[LocustStatistics]]:
    """Send every request when it is due; return the outcomes and locust's statistics.

    Raises:
        GeneratorError: the generator's process failed.
    """
    return _generate(target, samples, requests, 0, seconds)


def measure_capacity(
    target: Target, samples: Sequence[Sample], order: Sequence[int], users: int, seconds: float, warm_up: float = 2.0
) -> float:
    """Return the answers per second of a closed loop of ``users`` users, each with one request at a time.

    Answers in the first ``warm_up`` seconds do not count.

    Raises:
        GeneratorError: the generator failed, or no request was answered.
    """
    requests = [Request("capacity", 0.0, sample) for sample in order]
    outcomes, _ = _generate(target, samples, requests, users, warm_up + seconds)
    done = [o for o in outcomes if o.kind in ("answered", "refused") and warm_up <= o.ended < warm_up + seconds]
    if not done:
        causes = sorted({o.code for o in outcomes if o.code})
        raise GeneratorError(f"no request was answered at {target.url}: {', '.join(causes) or 'no outcome at all'}")
    return len(done) / seconds
