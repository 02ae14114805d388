"""``veridict backfill`` against a real server on a real Ray, while its processes are killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from veridict.client import ClientConfig
from veridict.deploy.backfill.chunks import ChunkWorker, Task
from veridict.deploy.backfill.judges import JudgeSettings
from veridict.deploy.backfill.plan import Request, open_plan
from veridict.deploy.backfill.storage import Folder
from veridict.deploy.manifest import default_repository

pytestmark = pytest.mark.slow
IMAGES, CHUNK = 45, 3
PATIENCE = 240.0


class Run:
    """One ``veridict backfill`` as a process."""

    def __init__(self, archive: Path, output: Path, url: str, temporary: Path):
        options = ["--input", str(archive), "--output", str(output), "--url", url, "--chunk", str(CHUNK)]
        command = [sys.executable, "-m", "veridict.deploy.command", "backfill", *options, "--in-flight", "4"]
        self.output, self.temporary = output, temporary
        self.log = (output.parent / f"log-{time.monotonic()}").open("w+")
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(output.parent / "slow")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)

    def parts(self) -> dict[str, int]:
        """Return the stored files with their times of change."""
        return {path.name: path.stat().st_mtime_ns for path in self.output.glob("results/part-*")}

    def wait_for_parts(self, count: int) -> None:
        ends = time.monotonic() + PATIENCE
        while len(self.parts()) < count:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < ends, self.text()
            time.sleep(0.02)

    def descendants(self) -> dict[psutil.Process, str]:
        """Return the processes of this run with their command lines."""
        return {p: " ".join(p.cmdline()) for p in psutil.Process(self.process.pid).children(recursive=True)}

    def kill_a_worker(self) -> None:
        workers = [process for process, command in self.descendants().items() if "MapWorker" in command]
        workers[0].kill()

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal (0: none); return the status and standard output when every process has ended.

        After SIGKILL two agents of Ray notice only after a minute that they are alone; they judge nothing.
        """
        processes = self.descendants()
        if number:
            self.process.send_signal(number)
        answer = self.process.communicate(timeout=PATIENCE)[0]
        watched = [p for p, command in processes.items() if number != signal.SIGKILL or "Agent" not in command]
        _, alive = psutil.wait_procs(watched, timeout=60)
        assert alive == []
        return self.process.returncode, answer

    def text(self) -> str:
        self.log.seek(0)
        return self.log.read()


@pytest.fixture
def start(triton, drawn, tmp_path):
    """Return a function that starts a run on the same folders; what still runs at the end is killed."""
    drawn(tmp_path / "in", IMAGES)
    (tmp_path / "in" / "00007.jpg").write_bytes(b"no image")
    # Each of Ray's ten processes imports jsonschema, and that this module where it is installed (the tests' packages
    # have it), which takes two seconds: Ray would need half a minute to start.
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "rfc3987_syntax.py").write_text("raise ImportError")
    temporary = Path("/tmp") / f"vd{os.getpid()}"  # Ray's sockets need a short path
    temporary.mkdir()
    runs = []

    def start_run() -> Run:
        runs.append(Run(tmp_path / "in", tmp_path / "out", triton.url, temporary))
        return runs[-1]

    yield start_run
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
        run.log.close()
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.live
def test_killed_workers_and_drivers_leave_no_duplicate_and_no_gap(start, tmp_path):
    run = start()
    run.wait_for_parts(2)
    run.kill_a_worker()
    run.wait_for_parts(5)
    run.end(signal.SIGKILL)
    stored = run.parts()
    assert len(stored) < IMAGES / CHUNK, "everything was done before the kill"

    run = start()
    run.wait_for_parts(len(stored) + 1)
    status, _ = run.end(signal.SIGTERM)
    assert (status, "the same command goes on from here" in run.text()) == (130, True)
    later = run.parts()
    assert stored.items() <= later.items()  # nothing was judged twice
    assert list(run.temporary.iterdir()) == []  # also what the killed run had left

    run = start()
    status, answer = run.end(0)
    assert status == 0, run.text()
    assert later.items() <= run.parts().items()
    summary = json.loads(answer)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["complete"], summary["done"]) == (True, IMAGES)
    assert summary["errors"] == {"image.unsupported_format": 1}

    rows = pq.read_table(tmp_path / "out" / "results").to_pylist()
    names = sorted((tmp_path / "in").iterdir())
    assert [(row["index"], row["source"]) for row in rows] == [(i, str(path)) for i, path in enumerate(names)]
    assert [row["sha256"] for row in rows] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in names]
    assert [row["index"] for row in rows if row["verdict"] is None] == [7]
    assert sorted(path.name for path in (tmp_path / "out" / "results").iterdir()) == sorted(run.parts())


@pytest.mark.live
def test_the_networks_in_this_process_judge_as_the_service(triton, drawn, encode, cat, tmp_path):
    drawn(tmp_path / "in", 3)
    (tmp_path / "in" / "cat.jpg").write_bytes(encode(cat))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
    found = {}
    for name, settings in {
        "service": JudgeSettings(ClientConfig(triton.url, deadline=60.0)),
        "here": JudgeSettings(None, default_repository(), threads=2),
    }.items():
        output = str(tmp_path / name)
        plan, _ = open_plan(Folder(output), Request((str(tmp_path / "in"),)), settings.models())
        worker = ChunkWorker(output, plan, settings)
        worker.judge_chunk(Task(0))
        worker.close()
        found[name] = pq.read_table(tmp_path / name / "results").to_pylist()
    different = ("judged_at", "document")
    same = [{k: v for k, v in row.items() if k not in different} for row in found["here"]]
    assert same == [{k: v for k, v in row.items() if k not in different} for row in found["service"]]
    assert [row["error_code"] for row in same] == [None, None, None, "image.unsupported_format", None]
