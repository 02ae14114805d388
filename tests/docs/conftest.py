"""The documents as data: pages, fenced blocks, tables, shell commands, and a place to run the examples in."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
#: Pages of which only the links are checked: their commands are the record of a run.
RECORDS = [ROOT / "CHANGELOG.md", *sorted(ROOT.glob("loadtests/*.md")), *sorted(ROOT.glob("export/weights_data/*.md"))]
FOLDERS = ("client", "deploy", "explain", "export", "forensics", "loadtests", "model_repository")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Commands that are run as they stand when they ask the local server or the queue.
RUN = {"detect", "health", "jobs"}
#: Words of a block that needs the queue and a worker.
WORKER_WORDS = ("ExplanationClient", "veridict jobs")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its number on the page, language and text."""

    page: Path
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.number}"

    @property
    def needs_worker(self) -> bool:
        """Return whether the block asks the queue."""
        return any(word in self.text for word in WORKER_WORDS)


BLOCKS = [
    Block(page, number, language, text)
    for page in PAGES
    for number, (language, text) in enumerate(FENCE.findall(page.read_text()), 1)
]


class Documents:
    """What the tests ask of the documents."""

    root, readme, pages, blocks, run = ROOT, README, PAGES, BLOCKS, RUN

    def prose(self, page: Path) -> str:
        """Return a page without its fenced blocks."""
        return FENCE.sub("", page.read_text())

    def page(self, name: str) -> Path:
        return ROOT / "docs" / f"{name}.md"

    def table(self, page: Path, header: str) -> list[list[str]]:
        """Return the cells of the rows of the table whose first line starts with ``header``."""
        lines = page.read_text().splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith(header)) + 2
        rows = []
        for line in lines[start:]:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        return rows

    def quoted(self, cells: list[str]) -> set[str]:
        """Return what stands between backticks."""
        return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}

    def anchors(self, page: Path) -> set[str]:
        """Return the anchors that GitHub gives the headings of a page."""
        headings = re.findall(r"^#+ (.*)$", self.prose(page), flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def sources(self) -> list[Path]:
        """Return the product's Python files and model configurations."""
        return [p for name in FOLDERS for p in (ROOT / name).rglob("*") if p.suffix in (".py", ".pbtxt")]

    def commands(self, text: str) -> list[list[str]]:
        """Return the commands of a shell block as words; joins continued lines, drops comments and ``;``."""
        found: list[list[str]] = []
        for line in text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set(";&|"):
                    found += [words] if words else []
                    words = []
                else:
                    words.append(word)
        return found


@pytest.fixture(scope="session")
def documents() -> Documents:
    return Documents()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = {
        "python_block": [b for b in BLOCKS if b.language == "python"],
        "shell_block": [b for b in BLOCKS if b.language == "sh"],
        "cheap_block": [b for b in BLOCKS if b.language == "sh" and RUN & set(b.text.split())],
        "sample_block": [b for b in BLOCKS if b.language in ("json", "text")],
    }
    for name, found in wanted.items():
        if name in metafunc.fixturenames:
            slow = name in ("python_block", "cheap_block")
            marks = [pytest.mark.slow if slow and block.needs_worker else () for block in found]
            cases = [pytest.param(b, id=str(b), marks=mark) for b, mark in zip(found, marks, strict=True)]
            metafunc.parametrize(name, cases)
    if "linked_page" in metafunc.fixturenames:
        metafunc.parametrize("linked_page", [*PAGES, *RECORDS], ids=lambda page: page.name)


@pytest.fixture
def workplace(tmp_path, encode, astronaut, monkeypatch):
    """Make the folder that the examples speak of: photo.jpg with a face, and folder/ with a copy."""
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "photo.jpg", tmp_path / "folder" / "copy.jpg"):
        path.write_bytes(encode(astronaut))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return answer.status == 200
    return False


@pytest.fixture(scope="module")
def worker(triton, tmp_path_factory) -> Iterator[tuple[dict[str, str], str]]:
    """Run ``veridict worker`` with the embedded Redis; yield its environment and the URL of its status server."""
    folder = tmp_path_factory.mktemp("worker")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {"VERIDICT_STATE": str(folder), "VERIDICT_URL": triton.url}
    options = ["--port", str(port), "--nice", "0", "--share", "1"]
    command = [sys.executable, "-m", "veridict.deploy.command", "worker", *options]
    status, path = f"http://127.0.0.1:{port}", folder / "log"
    with (
        path.open("w") as log,
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log) as process,
    ):
        try:
            ends = time.monotonic() + 90
            while not _answers(f"{status}/health/ready"):
                assert process.poll() is None, path.read_text()
                assert time.monotonic() < ends, "the worker was not ready in time"
                time.sleep(0.1)
            yield environment, status
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
