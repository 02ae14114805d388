"""Starts the load generator in a process of its own and reads what it wrote down.

The generator runs under gevent, which patches the standard library of the process it is in; the command, the server's
launcher and the tests stay clear of that.
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

from .outcomes import Outcome, Request, read_ledger
from .payloads import Sample

#: Seconds that the generator may take for its start, the last answers and its end, beside the run itself.
_PATIENCE = 45.0


class GeneratorError(RuntimeError):
    """The load generator failed; the message says how."""


@dataclass(frozen=True)
class Target:
    """Where the load goes: host:port of the gRPC endpoint, seconds a request may take, TLS, the client's throttle."""

    url: str
    deadline: float = 5.0
    tls: Tls | None = None
    throttle: float = ClientConfig.throttle


@dataclass(frozen=True)
class Plan:
    """What the generator does: the requests at their due times, or with ``users`` a closed loop of ``seconds``."""

    target: Target
    samples: Sequence[Sample]
    requests: Sequence[Request]
    users: int
    seconds: float
    ledger: Path
    tallies: Path


@dataclass(frozen=True)
class Tally:
    """A line of locust's own statistics; latencies in milliseconds, from when the requests were due."""

    name: str
    requests: int
    failures: int
    median_ms: float
    p99_ms: float
    requests_per_second: float


def write_plan(folder: Path, plan: Plan) -> Path:
    """Write the plan and its samples into ``folder`` and return the plan's path."""
    for number, sample in enumerate(plan.samples):
        (folder / f"{number}.sample").write_bytes(sample.data)
    tls = plan.target.tls
    document = {
        "target": vars(plan.target) | {"tls": tls and {name: path and str(path) for name, path in vars(tls).items()}},
        "samples": [{"name": s.name, "codes": s.codes} for s in plan.samples],
        "requests": [[r.id, r.due, r.sample] for r in plan.requests],
        "users": plan.users,
        "seconds": plan.seconds,
        "ledger": str(plan.ledger),
        "tallies": str(plan.tallies),
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
        Sample(s["name"], (path.parent / f"{number}.sample").read_bytes(), tuple(s["codes"]))
        for number, s in enumerate(document["samples"])
    ]
    requests = [Request(*row) for row in document["requests"]]
    return Plan(
        target=Target(**target | {"tls": tls}),
        samples=samples,
        requests=requests,
        users=document["users"],
        seconds=document["seconds"],
        ledger=Path(document["ledger"]),
        tallies=Path(document["tallies"]),
    )


def write_tallies(path: Path, tallies: Sequence[Tally]) -> None:
    """Write locust's statistics."""
    path.write_text(json.dumps([asdict(t) for t in tallies]))


def _generate(
    target: Target, samples: Sequence[Sample], requests: Sequence[Request], users: int, seconds: float
) -> tuple[list[Outcome], list[Tally]]:
    with tempfile.TemporaryDirectory(prefix="veridict-load-") as name:
        folder = Path(name)
        ledger, tallies = folder / "ledger.jsonl", folder / "locust.json"
        plan = Plan(target, samples, requests, users, seconds, ledger, tallies)
        command = [sys.executable, "-m", "veridict.loadtests.load.users", str(write_plan(folder, plan))]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        status = None
        try:
            status = process.wait(seconds + target.deadline + _PATIENCE)
        except subprocess.TimeoutExpired:
            # Its ledger says what became of the requests until then; the others count as lost.
            print("the load generator hangs and is stopped", file=sys.stderr, flush=True)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status:
            raise GeneratorError(f"the load generator ended with status {status}; its message stands above")
        rows = json.loads(tallies.read_text()) if tallies.exists() else []
        return read_ledger(ledger), [Tally(**row) for row in rows]


def send_open_loop(
    target: Target, samples: Sequence[Sample], requests: Sequence[Request], seconds: float
) -> tuple[list[Outcome], list[Tally]]:
    """Send the requests at their times and return their outcomes and locust's statistics.

    Raises:
        GeneratorError: the generator's process failed.
    """
    return _generate(target, samples, requests, 0, seconds)


def measure_capacity(
    target: Target, samples: Sequence[Sample], order: Sequence[int], users: int, seconds: float, warm_up: float = 2.0
) -> float:
    """Return the answers per second that ``users`` get who each wait for an answer before they send again.

    Answers of the first ``warm_up`` seconds do not count.

    Raises:
        GeneratorError: the generator failed, or not one request was answered.
    """
    requests = [Request("capacity", 0.0, sample) for sample in order]
    outcomes, _ = _generate(target, samples, requests, users, warm_up + seconds)
    done = [o for o in outcomes if o.kind in ("answered", "refused") and warm_up <= o.ended < warm_up + seconds]
    if not done:
        causes = sorted({o.code for o in outcomes if o.code})
        raise GeneratorError(f"no request was answered at {target.url}: {', '.join(causes) or 'no outcome at all'}")
    return len(done) / seconds
