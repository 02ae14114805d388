"""What a server keeps of the images that it judges, with its log at its most talkative: nothing."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.manifest import default_repository

#: In the files' own metadata, as a camera writes a name or a place.
MARK = b"taken by A. Person at 48.8584N 2.2945E"
#: Consecutive bytes of a file that no log line contains, in any of the usual spellings.
WINDOW = 30


def with_comment(jpeg):
    return jpeg[:2] + b"\xff\xfe" + (len(MARK) + 2).to_bytes(2, "big") + MARK + jpeg[2:]


def spellings(data):
    """Yield parts of a file as a log could show them: as text, base64, hexadecimal, and as Python and C write bytes."""
    yield MARK.decode()
    for start in range(0, len(data) - WINDOW, max(1, len(data) // 50)):
        part = data[start : start + WINDOW]
        yield base64.b64encode(data[start - start % 3 :][:WINDOW]).decode()
        yield part.hex()
        yield repr(part)[2:-1]
        yield "".join(f"\\{byte:03o}" for byte in part)


def files_below(*folders):
    """Return size and time of every file; not of bytecode, which another test's server may write meanwhile."""
    found = [path for folder in folders for path in Path(folder).rglob("*") if "__pycache__" not in path.parts]
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found if path.is_file()}


def written_files(pid):
    """Return the regular files outside /dev that a process has open for writing."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target, info = os.readlink(entry), Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
        except OSError:
            continue
        writes = int(info.split("flags:")[1].split()[0], 8) & (os.O_WRONLY | os.O_RDWR)
        if writes and target.startswith("/") and not target.startswith(("/dev/", "/memfd:", "/proc/")):
            found.add(target)
    return found


@pytest.fixture
def serving(small_repository, tmp_path):
    """Run ``veridict serve`` with verbose JSON logs, and folders of its own for all that it could write."""
    folders = {name: tmp_path / name for name in ("tmp", "home", "here")}
    for folder in folders.values():
        folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folders["tmp"]), "HOME": str(folders["home"])}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "veridict.deploy.command", "serve", "--log-format", "json", "--no-standby"]
    command += ["--repository", str(small_repository)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--triton-option", "log-verbose=3"]
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env=environment, cwd=folders["here"], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            ready = process.stdout.readline()
            assert ready.startswith("ready"), log.read_text()[-2000:]
            yield process, ready.split()[2].rstrip(","), folders.values(), log
        finally:
            process.terminate()


@pytest.mark.parametrize("spell", [lambda d: base64.b64encode(d).decode(), bytes.hex, repr])
def test_an_image_in_a_log_line_would_be_found(encode, cat, spell):
    data = with_comment(encode(cat))
    shown = f"request failed for {spell(data[: len(data) // 2])} ..."
    assert [text for text in spellings(data) if text in shown]
    assert not [text for text in spellings(data) if text in "request failed: the file ends before the last pixel"]


@pytest.mark.live
@pytest.mark.slow
def test_no_image_is_in_a_log_line_or_on_the_disk(serving, small_repository, encode, astronaut, coffee):
    process, url, folders, log = serving
    noise = np.random.default_rng(5).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    photo = with_comment(encode(astronaut))
    good = [photo, encode(coffee, "PNG"), encode(noise, "WEBP", quality=90)]
    bad = [photo[: len(photo) // 2], b"data:image/png;base64," + base64.b64encode(photo)[:3000], noise.tobytes()[:5000]]
    before = files_below(*folders, small_repository, default_repository())
    open_files = set()
    with DetectorClient(config=ClientConfig(url, deadline=120.0)) as client:
        results = list(client.detect_many(good + bad))
        for pid in [p.pid for p in psutil.Process(process.pid).children(recursive=True)]:
            open_files |= written_files(pid)
    assert [r.error is None for r in results] == [True] * 3 + [False] * 3
    assert files_below(*folders, small_repository, default_repository()) == before
    assert open_files <= {str(log)}
    process.terminate()
    assert process.wait(60) == 0
    lines = log.read_text().splitlines()
    assert len(lines) > 1000  # the log was verbose indeed
    assert all("message" in json.loads(line) for line in lines)
    shown = "\n".join(lines)
    for data in good + bad:
        assert not [text for text in spellings(data) if text in shown]
    assert not list(Path("/dev/shm").glob(f"veridict-{process.pid}-*"))
