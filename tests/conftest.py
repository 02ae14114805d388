"""Shared fixtures: real photographs from scikit-image, encoders, and one real tritonserver per run."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.manifest import default_repository, read_manifest
from veridict.export.pipeline import Run, load_networks

from .small_tower import make_small_repository

DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"


#: Session fixtures that cost much -> a name for the files that need one: xdist keeps them in one worker (Makefile), so
#: that each is made once. All other files stay whole, each in any worker.
EXPENSIVE = {"triton": "server", "bundled_export": "export", "bundled_clip": "export"}
#: Folders whose tests share a server of their own.
SHARING = ("tests/live/faults", "tests/deploy/observability")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Name the group of each file for xdist; in its workers the longest groups come first, the quick files last."""
    needed: dict[Path, str] = {}
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in EXPENSIVE:
                needed[item.path] = EXPENSIVE[fixture]
    groups, slow = {}, set()
    for item in items:
        folder = item.path.parent.relative_to(config.rootpath).as_posix()
        groups[item] = needed.get(item.path) or (folder if folder in SHARING else f"{folder}/{item.path.name}")
        item.add_marker(pytest.mark.xdist_group(groups[item]))
        if item.get_closest_marker("slow"):
            slow.add(groups[item])
    if hasattr(config, "workerinput"):
        order = [*dict.fromkeys(EXPENSIVE.values()), *SHARING]
        ranks = {
            group: order.index(group) if group in order else len(order) + (group not in slow)
            for group in groups.values()
        }
        items.sort(key=lambda item: ranks[groups[item]])
    yield
    # xdist appends the group to the node id; with a pytest that it does not know it would split the groups silently.
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in items):
        raise pytest.UsageError("this pytest-xdist cannot keep files together with this pytest: see pyproject.toml")


class Clock:
    """A clock that stands still until a test moves it."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    def encode(pixels: np.ndarray, form: str = "JPEG", mode: str = "", **options: object) -> bytes:
        image = Image.fromarray(pixels)
        if mode:
            image = image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="session")
def cat() -> np.ndarray:
    return np.ascontiguousarray(data.cat())


@pytest.fixture(scope="session")
def coffee() -> np.ndarray:
    return np.ascontiguousarray(data.coffee())


@pytest.fixture(scope="session")
def three_faces(astronaut: np.ndarray, coffee: np.ndarray) -> np.ndarray:
    """A picture with three faces: a portrait three times side by side."""
    return np.hstack([astronaut, astronaut[:, ::-1], astronaut])


@pytest.fixture(scope="session")
def triton() -> Iterator[TritonServer]:
    with TritonServer(ServerSettings(grpc_port=0, http_port=0, metrics_port=0)) as server:
        yield server


@pytest.fixture(scope="session")
def detector(triton: TritonServer) -> Iterator[DetectorClient]:
    with DetectorClient(config=ClientConfig(triton.url, deadline=60.0)) as client:
        yield client


@pytest.fixture(scope="session")
def networks() -> dict[str, Run]:
    """The bundled networks of a verdict in this process, loaded once: for ``InProcessDetector``."""
    return load_networks(read_manifest(default_repository()), 2)


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a tiny image tower, for servers of which only the serving matters; copy it to change it."""
    return make_small_repository(tmp_path_factory.mktemp("small") / "repository")


@pytest.fixture(scope="session")
def datasets() -> Path:
    if not DATASETS.exists():
        pytest.skip("the training images are not beside this checkout")
    return DATASETS
