"""What the tests of the backfill share: drawn images, a judge that needs no network, and a bucket."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from veridict.client import Category, ClipPrediction, ImageFacts, ModelVersions, Verdict
from veridict.deploy.backfill.plan import Plan, Request, open_plan
from veridict.deploy.backfill.results import Failure
from veridict.deploy.backfill.storage import BackfillError, Folder

MODELS = ModelVersions("clip", "faces", "calibration", "finder", "policy")


def make_verdict(data: bytes, models: ModelVersions = MODELS) -> Verdict:
    """Return a verdict that the bytes decide."""
    sha256 = hashlib.sha256(data).hexdigest()
    probability = int(sha256[:4], 16) / 0xFFFF
    return Verdict(
        request_id="",
        image=ImageFacts(sha256, "JPEG", 8, 8, len(data)),
        verdict="deepfake" if probability >= 0.5 else "real",
        fake_probability=probability,
        confidence="low" if 0.4 < probability < 0.6 else "high",
        category=Category("animal", {"animal": 1.0}),
        clip=ClipPrediction(0.5, 0.5),
        faces=(),
        forensics={},
        explanation="",
        evidence=(),
        models=models,
        doubts=("close_call",) if 0.4 < probability < 0.6 else (),
    )


@dataclass
class StubJudge:
    """Stands in for the networks, and for the settings that open it; ``asked`` counts the images.

    Files that begin with "broken" are refused, and ``away`` stands for a service that does not answer.
    """

    versions: ModelVersions = MODELS
    away: bool = False
    patience: float = 0.0
    parallel: int = 3
    batch: int = 2
    asked: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def models(self) -> ModelVersions:
        return self.versions

    def open(self) -> StubJudge:
        return self

    def judge(self, images):
        if self.away:
            raise BackfillError("no answer for 0 s (--patience), the last error: away")
        with self.lock:
            self.asked += images
        broken = Failure("image.corrupt", "the file is damaged")
        return [broken if data.startswith(b"broken") else make_verdict(data, self.versions) for data in images]

    def close(self) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder of ten files with the names of images; the third is refused and the sixth is no file."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number:02d}.jpg").write_bytes(b"image %d" % number)
    (folder / "02.jpg").write_bytes(b"broken")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "output")


@pytest.fixture
def plan(archive: Path, output: str) -> Plan:
    """The plan of the archive in three chunks, made in ``output``."""
    return open_plan(Folder(output), Request((str(archive),), chunk=4), MODELS)[0]


@pytest.fixture
def drawn(encode):
    """Return a function that draws so many different small JPEGs into a folder."""

    def draw(folder: Path, count: int, side: int = 96) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        y, x = np.mgrid[0:side, 0:side] / side
        paths = [folder / f"{number:05d}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            rng = np.random.default_rng(number)
            a, b, c = rng.uniform(1, 9, 3)
            waves = np.stack([np.sin(a * x + b * y), np.cos(b * x * c), np.sin(c * (x + y))], axis=2)
            pixels = 127 + 90 * waves + rng.normal(0, 6, waves.shape)
            path.write_bytes(encode(np.clip(pixels, 0, 255).astype(np.uint8)))
        return paths

    return draw


@pytest.fixture(scope="session")  # fsspec keeps one connection per process
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """An empty bucket on a real S3 protocol server."""
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    name = "archive-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return boto3.resource("s3").create_bucket(Bucket=name)
