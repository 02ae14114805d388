"""Shared fixtures: real photographs from scikit-image, encoders, and one real tritonserver per run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from veridict.client import ClientConfig, DetectorClient
from veridict.deploy.launcher import ServerSettings, TritonServer

DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"


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
def datasets() -> Path:
    if not DATASETS.exists():
        pytest.skip("the training images are not beside this checkout")
    return DATASETS
