"""A review on a database of its own, answers, a real ``veridict ui`` and a real Chromium."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from veridict.client import Category, ClipPrediction, Evidence, Face, ImageFacts, ModelVersions, Signal, Verdict
from veridict.deploy.ui.database import open_database
from veridict.deploy.ui.images import ImageFolder
from veridict.deploy.ui.store import ReviewStore

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def clock(clock):
    """A clock that stands still, at a time of day: a date of 2027."""
    clock.now = 1_800_000_000.0
    return clock


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path / 'review.sqlite'}"


@pytest.fixture
def store(database, clock):
    return ReviewStore(open_database(database), lease=60.0, clock=clock)


@pytest.fixture
def images(tmp_path):
    return ImageFolder(tmp_path / "images")


def answer(data: bytes = b"image", **changes) -> Verdict:
    """Return an answer of low confidence about ``data``; ``changes`` replace fields."""
    verdict = Verdict(
        request_id="r1",
        image=ImageFacts(hashlib.sha256(data).hexdigest(), "JPEG", 640, 480, len(data)),
        verdict="real",
        fake_probability=0.4,
        confidence="low",
        category=Category("animal", {"animal": 0.7, "food": 0.3}),
        clip=ClipPrediction(0.3, 0.7),
        faces=(),
        forensics={"blur": Signal(12.0, 40.0, "normal", True), "ela": Signal(None, None, "", False, "it is a PNG")},
        explanation="CLIP favors 'deepfake'",
        evidence=(Evidence("clip", 0.7, None, 1.0, 0.4, "CLIP favoring 'deepfake'"),),
        models=ModelVersions("a", "b", "c"),
        threshold=0.8,
        doubts=("near_threshold",),
    )
    return replace(verdict, **changes)


@pytest.fixture(name="answer")
def make_answer():
    return answer


@pytest.fixture
def add(store, images):
    """Return a function that stores an image and its answer as a waiting item."""

    def add(data: bytes = b"image", name: str = "photo.jpg", **changes):
        images.put(data)
        return store.add(answer(data, **changes), name, "folder", queued=True)[0]

    return add


@pytest.fixture
def face():
    return Face((10, 10, 50, 50), 0.9)


@dataclass
class Page:
    """A running ``veridict ui``: its address and what it printed."""

    url: str
    lines: list[str]


@contextlib.contextmanager
def run_ui(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Page]:
    """Run ``veridict ui`` on a free port, and stop it as a person does."""
    command = [sys.executable, "-m", "veridict.deploy.command", "ui", "--port", "0", *arguments]
    unset = {name: value for name, value in os.environ.items() if name != "VERIDICT_URL"}
    with subprocess.Popen(
        command,
        env={**unset, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        lines: list[str] = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("ready: "):
                    break
            else:
                raise AssertionError("\n".join(lines))
            rest = threading.Thread(target=lambda: lines.extend(line.rstrip() for line in process.stdout), daemon=True)
            rest.start()
            yield Page(lines[-1].split()[1].rstrip(";"), lines)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(60) == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the system, for one module: playwright keeps the event loop of the thread running."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def start_ui():
    return run_ui
