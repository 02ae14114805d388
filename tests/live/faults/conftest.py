"""One supervised server for the faults that a service survives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .service import Service


@pytest.fixture(scope="package")
def running_service(small_repository: Path) -> Iterator[Service]:
    with Service("--repository", str(small_repository)) as service:
        yield service


@pytest.fixture
def service(running_service: Service) -> Service:
    """The shared service, with a loaded standby."""
    running_service.wait_for_standby()
    return running_service


@pytest.fixture(scope="session")
def photo(encode, cat) -> bytes:
    return encode(cat)
