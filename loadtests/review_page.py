"""Measures how quickly ``veridict ui`` answers with a long queue: ``python -m veridict.loadtests.review_page``.

A page of its own gets ``--items`` answers of low confidence; a headless Chromium on the same machine visits it and
decides by key. Times are what the browser sees: until the picture is there and the page's script has ended. Needs the
extras ``dev`` and ``review``, and a Chromium on the path.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from veridict.deploy import option_types
from veridict.deploy.manifest import default_repository
from veridict.forensics.contract import Verdict

from .machine import ProcessTree, describe_machine
from .sample_images import encode_jpeg
from .tables import markdown_table

#: Nothing listens there: the page waits for its detector, which these figures do not need.
_NO_DETECTOR = "127.0.0.1:9"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: The page's script has run to its end, so that keys press the buttons of this run.
_IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
_MILLISECONDS = 60_000


@dataclass
class Times:
    """Seconds that one kind of action took in the browser, and CPU seconds of the page's process for each."""

    what: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """Return a row of the table."""
        median, slowest = statistics.median(self.seconds), max(self.seconds)
        cpu = statistics.median(self.cpu)
        return self.what, str(len(self.seconds)), f"{median:.2f} s", f"{slowest:.2f} s", f"{cpu:.2f} s"


def write_queue(folder: Path, items: int) -> Path:
    """Write so many different photographs of a megapixel, and a file of answers that call for a person; return it.

    The answer of one photograph stands for all: only what names the image differs.
    """
    import cv2
    from skimage import data

    from veridict.export.pipeline import InProcessDetector

    pixels = cv2.resize(data.astronaut(), (1152, 864), interpolation=cv2.INTER_CUBIC)
    template: Verdict | None = None
    lines = []
    for number in range(items):
        marked = pixels.copy()
        cv2.putText(marked, str(number), (40, 100), cv2.FONT_HERSHEY_SIMPLEX, 3.0, (255, 255, 255), 6)
        encoded = encode_jpeg(marked)
        if template is None:
            (template,) = InProcessDetector(default_repository()).detect([encoded])
        facts = replace(template.image, sha256=hashlib.sha256(encoded).hexdigest(), bytes=len(encoded))
        probability = 0.2 + 0.6 * number / items
        answer = replace(template, image=facts, confidence="low", fake_probability=probability)
        name = f"{number:05d}.jpg"
        (folder / name).write_bytes(encoded)
        lines.append(json.dumps({"path": name, **json.loads(answer.to_json())}) + "\n")
    file = folder / "answers.jsonl"
    file.write_text("".join(lines))
    return file


@contextlib.contextmanager
def serve_page(queue: Path, state: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run ``veridict ui`` and yield its URL and the process that serves the page.

    Raises:
        RuntimeError: it ended at once; the message is its last line.
    """
    command = [sys.executable, "-m", "veridict.deploy.command", "ui", "--port", "0", "--no-worker"]
    command += ["--state", str(state), "--url", _NO_DETECTOR, "--queue", str(queue)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        line = ""
        try:
            for line in process.stdout:
                if line.startswith("ready: "):
                    break
            else:
                raise RuntimeError(f"veridict ui ended: {line.strip()}")
            children = psutil.Process(process.pid).children(recursive=True)
            page = next(child for child in children if "streamlit" in " ".join(child.cmdline()))
            yield line.split()[1].rstrip(";"), page
        finally:
            process.terminate()
            process.wait(60)


def wait_for_items(state: Path, items: int) -> None:
    """Return once the queue holds so many items.

    Raises:
        RuntimeError: it does not after ten minutes.
    """
    from veridict.deploy.ui.database import open_database
    from veridict.deploy.ui.records import count
    from veridict.deploy.ui.store import ReviewStore

    store = ReviewStore(open_database(f"sqlite:///{state / 'review' / 'review.sqlite'}"))
    ends = time.monotonic() + 600
    while count(store).waiting < items:
        if time.monotonic() > ends:
            raise RuntimeError("the queue was not filled in ten minutes")
        time.sleep(0.5)


def measure(url: str, process: psutil.Process, visits: int, decisions: int) -> list[Times]:
    """Visit the page and decide; return the times of first visits, of later ones, and of decisions.

    A first visit is one with an empty cache: the browser also loads Streamlit's scripts. Later ones are those of a
    browser that has been there.
    """
    from playwright.sync_api import sync_playwright

    first, later, decided = Times("first visit of a browser"), Times("later visit"), Times("key to the next picture")
    tree = ProcessTree(process.pid)

    def timed(times: Times, action: Callable[[], Any]) -> None:
        began, before = time.perf_counter(), tree.cpu_seconds()
        action()
        times.seconds.append(time.perf_counter() - began)
        times.cpu.append(tree.cpu_seconds() - before)

    executable = next(filter(None, map(shutil.which, _BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])

        def finish(page: Any) -> None:
            page.locator(_IDLE).wait_for()
            page.locator("img.picture").first.evaluate("image => image.decode()")

        def visit(page: Any, reviewer: str) -> None:
            page.goto(f"{url}/?reviewer={reviewer}")
            page.get_by_role("button", name="Confirm").wait_for()
            finish(page)

        def decide(page: Any) -> None:
            name = page.locator("h1").inner_text()
            page.keyboard.press("a")
            page.wait_for_function("name => document.querySelector('h1')?.innerText !== name", arg=name)
            finish(page)

        for number in range(visits):
            with contextlib.closing(browser.new_context()) as context:
                page = context.new_page()
                page.set_default_timeout(_MILLISECONDS)
                timed(first, partial(visit, page, f"first{number}"))
                page.wait_for_timeout(500)
                timed(later, partial(visit, page, f"first{number}"))
        with contextlib.closing(browser.new_context()) as context:
            page = context.new_page()
            page.set_default_timeout(_MILLISECONDS)
            visit(page, "decides")
            for _ in range(decisions):
                page.wait_for_timeout(300)
                timed(decided, partial(decide, page))
        browser.close()
    return [first, later, decided]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m veridict.loadtests.review_page", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--items", type=option_types.whole(50, 100_000), default=500, help="items in the queue (default: %(default)s)"
    )
    parser.add_argument("--visits", type=option_types.whole(1, 20), default=8, help="(default: %(default)s)")
    parser.add_argument("--decisions", type=option_types.whole(1, 20), default=20, help="(default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print the table; return 0, or 1 with the reason on standard error."""
    arguments = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vui") as name:
        folder, state = Path(name) / "images", Path(name) / "state"
        folder.mkdir()
        print(f"writing {arguments.items} images and answers ...", file=sys.stderr, flush=True)
        queue = write_queue(folder, arguments.items)
        try:
            with serve_page(queue, state) as (url, process):
                print("filling the queue ...", file=sys.stderr, flush=True)
                wait_for_items(state, arguments.items)
                times = measure(url, process, arguments.visits, arguments.decisions)
        except (RuntimeError, OSError) as error:
            print(f"review_page: {error}", file=sys.stderr)
            return 1
    print(f"{arguments.items} items in the queue, headless Chromium on the same machine: {describe_machine()}\n")
    print(
        markdown_table(("action", "times", "median", "slowest", "CPU of the page's process"), [t.row() for t in times])
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
